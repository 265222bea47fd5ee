"""Google's endpoints on loopback, for the real google-auth and the real gcloud.

One server plays the metadata server over plain http, and ``*.googleapis.com`` over TLS behind a CONNECT proxy with an
authority of its own, so that the libraries run unchanged. Answers have the shapes of Google's documentation; each
request is kept in ``seen``.
"""

from __future__ import annotations

import base64
import datetime
import http.server
import json
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from mlflow_gatehouse.identity_token import claims_of

STORAGE = "storage.googleapis.com"
HOSTS = ("oauth2.googleapis.com", "iamcredentials.googleapis.com", "sts.googleapis.com", STORAGE)
ACCOUNT = "trainer@project.iam.gserviceaccount.com"
PERSON = "alice@example.com"
GCLOUD_AUDIENCE = "32555940559.apps.googleusercontent.com"
ADC_AUDIENCE = "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com"


@dataclass(frozen=True)
class Seen:
    """A request that came in."""

    host: str
    method: str
    path: str
    query: dict[str, str]
    body: dict[str, Any]
    headers: dict[str, str]


class Google:
    """The stand-in. ``mint`` signs tokens as the gate's provider does; replace it to hand out other ones."""

    def __init__(self, folder: Path, mint: Callable[..., str]) -> None:
        self.mint = mint
        self.seen: list[Seen] = []
        self.down = False  # True: every endpoint answers 404, which google-auth doesn't try again
        self.may_sign = True  # False: the account lacks iam.serviceAccounts.signBlob
        self.before_signing: Callable[[], None] = lambda: None
        self.key = rsa.generate_private_key(65537, 2048)  # the account's, which Google keeps to itself
        self.bucket: Callable[[http.server.BaseHTTPRequestHandler], None] | None = None  # answers for Cloud Storage
        self.authority, self.tls = _authority(folder)
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()

    def count(self, part: str) -> int:
        """How many requests had this in their path."""
        return sum(part in request.path for request in list(self.seen))

    @property
    def as_metadata(self) -> dict[str, str]:
        """The environment of a machine whose metadata server this is."""
        return {"GCE_METADATA_HOST": self.address, "GCE_METADATA_IP": self.address}

    @property
    def as_googleapis(self) -> dict[str, str]:
        """The environment of a machine that reaches ``*.googleapis.com`` here."""
        return {
            "HTTPS_PROXY": f"http://{self.address}",
            "REQUESTS_CA_BUNDLE": str(self.authority),
            "NO_PROXY": "localhost,127.0.0.1",
            "NO_GCE_CHECK": "true",
        }

    def answer(self, request: Seen) -> tuple[int, str | dict[str, Any]]:
        """Answer one request: status and body."""
        if self.down:
            return 404, {"error": "unavailable"}
        path = request.path
        if path.endswith("/instance/service-accounts/default/identity"):
            with_email = request.query.get("format") == "full"
            return 200, self.mint(email=ACCOUNT if with_email else None, aud=request.query["audience"])
        if path.endswith(("/instance/service-accounts/default/", f"/instance/service-accounts/{ACCOUNT}/")):
            return 200, {"aliases": ["default"], "email": ACCOUNT, "scopes": []}
        if path.endswith("/token") and path.startswith("/computeMetadata/v1"):
            # Cloud Run narrows a token to the scopes asked for (google-auth, compute_engine/credentials.py).
            scopes = request.query.get("scopes", "https://www.googleapis.com/auth/cloud-platform")
            return 200, {"access_token": f"for:{scopes}", "expires_in": 3599, "token_type": "Bearer"}
        if path.endswith("/universe-domain"):
            return 404, "not here"
        if path.startswith("/computeMetadata/v1") or path == "/":
            return 200, "ok"
        if path.endswith(":signBlob"):
            return self._sign_blob(request)
        if path.endswith(":generateIdToken"):
            account = path.rpartition("/")[2].partition(":")[0]
            email = account if request.body.get("includeEmail") else None
            return 200, {"token": self.mint(sub="1", email=email, aud=request.body["audience"])}
        if path.endswith(":generateAccessToken"):
            return 200, {"accessToken": "access", "expireTime": "2100-01-01T00:00:00Z"}
        if path == "/v1/token":  # sts.googleapis.com
            return 200, {
                "access_token": "federated",
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "token_type": "Bearer",
                "expires_in": 3600,
            }
        if path == "/token":
            return self._token(request.body)
        return 404, {"error": f"no such endpoint: {path}"}

    def _sign_blob(self, request: Seen) -> tuple[int, dict[str, Any]]:
        """Sign as the account, or refuse in the words of the IAM Credentials API."""
        self.before_signing()
        scopes = request.headers.get("authorization", "").removeprefix("Bearer for:").split(",")
        if not self.may_sign or not any(scope.endswith(("/auth/iam", "/auth/cloud-platform")) for scope in scopes):
            message = "Permission 'iam.serviceAccounts.signBlob' denied on resource (or it may not exist)."
            return 403, {"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED"}}
        signed = self.key.sign(base64.b64decode(request.body["payload"]), padding.PKCS1v15(), hashes.SHA256())
        return 200, {"keyId": "1", "signedBlob": base64.b64encode(signed).decode()}

    def _token(self, form: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if form["grant_type"] == "refresh_token":
            if form["refresh_token"] != "good":
                return 400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}
            known = GCLOUD_AUDIENCE if form["client_id"] == GCLOUD_AUDIENCE else ADC_AUDIENCE
            identity: str | None = self.mint(email=PERSON, aud=known)
        else:
            assertion = claims_of(form["assertion"])
            audience = assertion.get("target_audience")
            identity = self.mint(email=assertion["iss"], aud=audience) if audience else None
        answer: dict[str, Any] = {"access_token": "access", "expires_in": 3599, "token_type": "Bearer"}
        return 200, answer | ({"id_token": identity} if identity else {})


def _handler(google: Google) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_CONNECT(self) -> None:
            host = self.path.partition(":")[0]
            if host not in HOSTS:
                self.send_error(403, f"not for {host}")
                return
            self.send_response(200)
            self.end_headers()
            self.connection = google.tls.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)
            self.close_connection = False
            self.host = host
            while not self.close_connection:
                self.handle_one_request()

        def _serve(self) -> None:
            if getattr(self, "host", "") == STORAGE and google.bucket is not None:
                google.bucket(self)
                return
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            kind = self.headers.get("Content-Type", "")
            body = json.loads(raw) if "json" in kind and raw else {k: v[0] for k, v in parse_qs(raw).items()}
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Seen(getattr(self, "host", ""), self.command, parts.path, query, body, headers)
            google.seen.append(request)
            status, answer = google.answer(request)
            content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/text" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Metadata-Flavor", "Google")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _serve

        def log_message(self, format: str, *args: object) -> None:
            """``seen`` is the log."""

    return Handler


def _authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate authority and a server context for Google's hosts under it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    span = (now - datetime.timedelta(hours=1), now + datetime.timedelta(days=1))
    root_key, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the tests' authority")])

    def builder(subject: x509.Name, public_key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root_name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(span[0])
            .not_valid_after(span[1])
        )

    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    root = (
        builder(root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    certificate = (
        builder(x509.Name([]), key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    authority, chain = folder / "authority.pem", folder / "server.pem"
    authority.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return authority, context


def service_account_key(token_uri: str) -> dict[str, str]:
    """A service account's key file, as Google's console gives it."""
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "1",
        "private_key": private.decode(),
        "client_email": ACCOUNT,
        "client_id": "1",
        "token_uri": token_uri,
    }


def person(grant: str = "good") -> dict[str, str]:
    """What ``gcloud auth application-default login`` leaves, with ``grant`` as the refresh token."""
    return {"type": "authorized_user", "client_id": ADC_AUDIENCE, "client_secret": "s", "refresh_token": grant}
