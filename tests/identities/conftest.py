"""A gate that takes machines' tokens, and issuers that make them with the claims of GitHub, Kubernetes, Keycloak and Entra."""

from __future__ import annotations

import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support import Gate, Postgres, Provider, running

GITHUB = "https://token.actions.githubusercontent.com"
AUDIENCE = "https://mlflow.example.com"
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=5"


class Issuer:
    """An issuer on loopback: a discovery document, a key set that can be changed, and tokens of any claims.

    Args:
        url: the ``iss`` of its tokens, where that isn't its own address.
        port: its port; 0: a free one.
    """

    def __init__(self, url: str | None = None, port: int = 0) -> None:
        self.key: Any = rsa.generate_private_key(65537, 2048)
        self.kid = uuid.uuid4().hex
        #: What the key set says instead of the key; None for the key.
        self.published: Any = None
        self.broken = False
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                document = owner.document() if self.path.endswith("openid-configuration") else owner.key_set()
                body = json.dumps(document).encode()
                self.send_response(503 if owner.broken else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.url = url or self.address
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def document(self) -> dict[str, Any]:
        places = ("jwks_uri", "keys"), ("authorization_endpoint", "authorize"), ("token_endpoint", "token")
        return {"issuer": self.url, **{name: f"{self.address}/{path}" for name, path in places}}

    def key_set(self) -> dict[str, Any]:
        return {"keys": self.published if self.published is not None else [self.public()]}

    def public(self, key: Any = None, kid: str | None = None) -> dict[str, Any]:
        """Return the public half of a key as it is published."""
        key = key or self.key
        algorithm: Any = jwt.algorithms.RSAAlgorithm
        if isinstance(key, ec.EllipticCurvePrivateKey):
            algorithm = jwt.algorithms.ECAlgorithm
        if isinstance(key, ed25519.Ed25519PrivateKey):
            algorithm = jwt.algorithms.OKPAlgorithm
        return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid or self.kid, "use": "sig"}

    def claims(self, subject: str, **changed: Any) -> dict[str, Any]:
        """Return the claims of a good token, with changes; None takes one away."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": subject, "iat": now, "nbf": now, "exp": now + 600, **changed}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, subject: str, *, header: dict[str, Any] | None = None, **changed: Any) -> str:
        """Return a token of a subject, signed by the key of now."""
        return jwt.encode(self.claims(subject, **changed), self.key, "RS256", {"kid": self.kid, **(header or {})})

    def github(self, repository: str, rest: str, **changed: Any) -> str:
        """Return a token with the claims that GitHub Actions' tokens have (docs.github.com, "OpenID Connect reference")."""
        owner = repository.partition("/")[0]
        claims = {
            "ref": "refs/heads/main", "sha": "f" * 40, "repository": repository, "repository_owner": owner,
            "repository_owner_id": "65", "run_id": "30433642", "run_number": "10", "run_attempt": "2",
            "repository_visibility": "private", "repository_id": "74", "actor_id": "12", "actor": "octocat",
            "workflow": "train", "head_ref": "", "base_ref": "", "event_name": "push", "ref_protected": "true",
            "ref_type": "branch", "workflow_ref": f"{repository}/.github/workflows/train.yml@refs/heads/main",
            "job_workflow_ref": f"{repository}/.github/workflows/train.yml@refs/heads/main",
            "runner_environment": "github-hosted", "jti": str(uuid.uuid4()),
        }  # fmt: skip
        return self.token(f"repo:{repository}:{rest}", header={"x5t": "k", "typ": "JWT"}, **{**claims, **changed})

    def kubernetes(self, namespace: str, name: str, **changed: Any) -> str:
        """Return a token as a projected volume has it (kubernetes.io, "Service account token volume projection")."""
        account = {"name": name, "uid": str(uuid.uuid4())}
        about = {"namespace": namespace, "serviceaccount": account, "pod": {"name": "p", "uid": str(uuid.uuid4())}}
        subject = f"system:serviceaccount:{namespace}:{name}"
        return self.token(subject, **{"aud": ["mlflow"], "kubernetes.io": about, **changed})

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


POLICY = """
default: viewer
roles:
  admin:
    - user:alice@example.com
  editor:
    - machine:github#repo:acme/train:ref:refs/heads/main
    - kubernetes:fraud/*
    - machine:keycloak#8f2b0d9e-6a0d-4a3b-9d0e-2f5a9b6f1c11
    - machine:apps#11111111-2222-3333-4444-555555555555
  viewer:
    - machine:https://token.actions.githubusercontent.com#repo:acme/*
    - kubernetes:default/reader
"""


@pytest.fixture(scope="session")
def github() -> Iterator[Issuer]:
    part = Issuer(GITHUB)
    yield part
    part.stop()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Issuer]:
    part = Issuer()
    yield part
    part.stop()


@pytest.fixture(scope="session")
def apps() -> Iterator[Issuer]:
    """An issuer of applications, as Entra ID: the client's id tells them apart."""
    part = Issuer()
    yield part
    part.stop()


@pytest.fixture(scope="session")
def gate(
    provider: Provider, postgres: Postgres, github: Issuer, cluster: Issuer, apps: Issuer, tmp_path_factory: Any
) -> Iterator[Gate]:
    """A gate with four issuers, of which the people's own provider is one."""
    folder: Path = tmp_path_factory.mktemp("identities")
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    issuers = [
        f"github={GITHUB}; audience={AUDIENCE}; keys={github.address}/keys",
        f"kubernetes={cluster.url}; audience=mlflow",
        f"keycloak={provider.issuer}; audience=gatehouse-machines",
        f"apps={apps.url}; audience=api://mlflow; subject=azp; groups=roles",
    ]
    environment = {
        "BACKEND_STORE_URI": postgres.create("identities"), "ACCESS_POLICY": str(policy),
        "MACHINE_ISSUERS": ", ".join(issuers), "WORKERS": "1",
    }  # fmt: skip
    with running(Gate(folder, provider, **environment)) as part:
        yield part


def ask(gate: Gate, token: str, path: str = SEARCH, **arguments: Any) -> requests.Response:
    """Send a request with a bearer token."""
    headers = {"Authorization": f"Bearer {token}", **arguments.pop("headers", {})}
    method = "POST" if "json" in arguments else "GET"
    return requests.request(method, gate.url + path, headers=headers, allow_redirects=False, timeout=30, **arguments)


def raw(gate: Gate, *lines: str) -> bytes:
    """Send a request by hand through the proxy; return the whole answer."""
    with socket.create_connection(("localhost", gate.port), timeout=20) as connection:
        head = "\r\n".join([f"GET {SEARCH} HTTP/1.1", f"Host: localhost:{gate.port}", "Connection: close", *lines])
        connection.sendall(head.encode("latin-1") + b"\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer
