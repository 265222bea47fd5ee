"""Who sent this request: the identity that the proxy verified, and nothing that the client wrote.

oauth2-proxy verifies the session cookie or the bearer token and states the result in headers. Two facts
make those headers trustworthy here, and this layer checks both for each request:

* the request carries the proof, a random secret of this start that the proxy alone was given; it sends it as
  ``Authorization: Basic base64(user:proof)``, in place of whatever ``Authorization`` the client sent;
* the proxy replaces ``X-Forwarded-{User,Email,Groups,Preferred-Username}`` of the client by its own.

A client could make headers *vanish* (``Connection: close, X-Forwarded-Email``: RFC 9110, 7.6.1; our build of the proxy
takes that header off), so a missing one is a refusal, never a guess.

A request without the proof can bring a credential that this side verifies itself, such as a machine's token: the proxy
hands it on and states nothing (proxy/gatehouse.go).

What goes on to MLflow carries neither a credential nor any header by which a client could claim an identity,
an address or another method.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from typing import TYPE_CHECKING

from gatehouse.pipeline.headers import STATED, STATEMENTS, STRIPPED, STRIPPED_PREFIXES
from gatehouse.policy.identity import Identity, IdentityError
from gatehouse.request.responses import error_response, response, send_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.types import Send

    from gatehouse.request.context import Context, Handler

#: Where people and scripts ask who they are.
WHOAMI_PATH = "/gatehouse/whoami"
#: The liveness path: the one answer that needs no identity, and says nothing but ``OK``.
LIVENESS_PATH = "/health"

# The longest values taken: RFC 5321 allows 254 octets for an address; OpenID Connect 255 for a subject.
_MAX_EMAIL = 254
_MAX_SUBJECT = 255


def _text(value: bytes, what: str, limit: int) -> str:
    """Return ``value`` as text, or raise IdentityError if it is none that can be shown and logged."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise IdentityError(f"The {what} in the identity is not UTF-8.") from None
    if not text or len(value) > limit or not text.isprintable():
        raise IdentityError(f"The {what} in the identity is missing, too long, or has a control character in it.")
    return text


def _email(value: bytes) -> str:
    """Return an address, or raise IdentityError if it is none or could be read as two."""
    email = _text(value.lower(), "e-mail address", _MAX_EMAIL)
    local, at, domain = email.rpartition("@")
    if not (local and at and domain):
        # The proxy falls back to the subject when a bearer token has no e-mail claim.
        raise IdentityError(
            "The token has no e-mail address in it. For a service account, ask for one with the address: "
            "gcloud auth print-identity-token --include-email, or format=full at the metadata server."
        )
    if "," in email or " " in email:  # the proxy joins repeated headers with a comma
        raise IdentityError("The e-mail address in the identity has a comma or a space in it.")
    return email


def _groups(value: bytes) -> tuple[str, ...]:
    """Split the groups, which the proxy joins with commas; one that can't be read is none, and can lift no role."""
    names = [name.decode(errors="surrogateescape").strip() for name in value.split(b",")]
    return tuple(dict.fromkeys(name for name in names if name and name.isprintable()))


def _username(value: bytes | None) -> str | None:
    """Return a name to show; who somebody is hangs on the address, so one that can't be shown keeps nobody out."""
    try:
        return _text(value, "user name", _MAX_SUBJECT) if value else None
    except IdentityError:
        return None


class AuthenticationLayer:
    """ASGI layer: lets in only what the proxy vouches for, and puts the :class:`Identity` into the context.

    Args:
        app: the next layer.
        proof: the secret of this start; at least 16 bytes.
        cookie_names: the proxy's session cookies (``OAUTH2_PROXY_COOKIE_NAME``); stripped with all that starts so.
        trusted_hops: how many proxies stand between the client and oauth2-proxy and append to X-Forwarded-For (Cloud
            Run's front end: 1). The address that the outermost of them saw is the client's.
        session_lifetime: seconds that the proxy's session cookie is good for (``cookie_expire``), if known.
        verify: returns whose credential it is that the proxy hands on, or raises IdentityError; None: it hands on none.
    """

    def __init__(
        self,
        app: Handler,
        proof: bytes,
        cookie_names: Iterable[str] = ("_oauth2_proxy",),
        trusted_hops: int = 0,
        session_lifetime: float | None = None,
        verify: Callable[[str, str | None], Awaitable[Identity]] | None = None,
    ) -> None:
        if len(proof) < 16:
            raise ValueError("the proxy's proof must have at least 16 bytes")
        if trusted_hops < 0:
            raise ValueError("trusted_hops must not be negative")
        self._app = app
        self._proof = b":" + proof
        self._cookies = tuple(name.encode() for name in cookie_names if name)
        self._hops = trusted_hops
        self._lifetime = session_lifetime
        self._verify_credential = verify

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        if context.path == LIVENESS_PATH and context.method in {"GET", "HEAD"}:
            await send_all(send, response(200, "text/plain; charset=utf-8", b"OK"))
            return
        try:
            await self._verify(context)
        except IdentityError as error:
            context.refusal = str(error)
            challenge = [(b"www-authenticate", b'Bearer realm="gatehouse"')]
            await send_all(send, error_response(401, "UNAUTHENTICATED", str(error), challenge))
            return
        await self._app(context, send)

    async def _verify(self, context: Context) -> None:
        """Note who sent the request, and take out of it what no client has a say in; or raise IdentityError."""
        passed: list[tuple[bytes, bytes]] = []
        stated: dict[bytes, bytes] = {}
        session_ends = None
        for name, value in context.scope["headers"]:
            if name in STATED:
                if name in stated:
                    raise IdentityError(f"The header {name.decode()} came twice.")
                stated[name] = value
            elif name == b"cookie":
                if context.path == WHOAMI_PATH:
                    session_ends = self._session_ends(value)
                if value := self._without_session(value):
                    passed.append((name, value))
            elif b"_" not in name and name not in STRIPPED and not name.startswith(STRIPPED_PREFIXES):
                passed.append((name, value))
        context.client_address = address = self._address(stated.get(b"x-forwarded-for", b""))
        credential = self._credential(stated) if self._verify_credential else ""
        if credential and self._verify_credential:
            if not stated.keys().isdisjoint(STATEMENTS):
                raise IdentityError("The proxy states an identity without its proof.")
            identity = await self._verify_credential(credential, address)
        else:
            identity = self._identity(stated)
        if address:
            # MLflow's assistant takes a request without forwarding headers for one from this machine.
            passed.append((b"x-forwarded-for", address.encode()))
        context.scope = {**context.scope, "headers": passed, "client": (address, 0) if address else None}
        context.identity, context.session_ends = identity, session_ends

    def _credential(self, stated: dict[bytes, bytes]) -> str:
        """Return what a request without the proof brings itself: a bearer token or a password; else nothing."""
        scheme, _, credentials = stated.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            return credentials.strip().decode("ascii", "replace")
        pair = _pair(credentials.strip()) if scheme.lower() == b"basic" else b""
        if hmac.compare_digest(pair[-len(self._proof) :], self._proof):
            return ""
        user, _, password = pair.partition(b":")
        return (user if password in {b"", b"x-oauth-basic"} else password).decode("ascii", "replace")

    def _identity(self, stated: dict[bytes, bytes]) -> Identity:
        """Return the identity that the proxy stated, or raise IdentityError."""
        scheme, _, credentials = stated.get(b"authorization", b"").partition(b" ")
        pair = _pair(credentials) if scheme == b"Basic" else b""
        if not hmac.compare_digest(pair[-len(self._proof) :], self._proof):
            raise IdentityError(
                "This request did not come through the sign-in proxy, and brings no credential that is taken here. "
                "Use the public address."
            )
        subject = pair[: -len(self._proof)]
        if not hmac.compare_digest(stated.get(b"x-forwarded-user", subject), subject):
            raise IdentityError("The proxy's statements about the user contradict each other.")
        return Identity(
            email=_email(stated.get(b"x-forwarded-email", b"")),
            subject=_text(subject, "subject", _MAX_SUBJECT),
            groups=_groups(stated[b"x-forwarded-groups"]) if b"x-forwarded-groups" in stated else (),
            username=_username(stated.get(b"x-forwarded-preferred-username")),
        )

    def _address(self, forwarded_for: bytes) -> str | None:
        """Return the client's address out of X-Forwarded-For, to which each hop appends its own peer."""
        hops = forwarded_for.split(b",")
        if len(hops) <= self._hops:
            return None
        address = hops[-1 - self._hops].strip().decode("ascii", "replace")
        return address if address.isprintable() and 0 < len(address) <= 64 else None

    def _session_ends(self, cookies: bytes) -> float | None:
        """Return when the session in a Cookie header ends.

        oauth2-proxy signs ``value|seconds since the epoch|signature`` and splits what is too long for one
        cookie into ``NAME_0``, ``NAME_1`` …; it has verified the signature, or else the identity came from a
        bearer token.
        """
        for name in self._cookies:
            parts = re.findall(rb"(?:^|[;,]\s*)" + re.escape(name) + rb"(?:_\d+)?=([^;,]*)", cookies)
            fields = b"".join(parts).split(b"|")
            if self._lifetime is not None and len(fields) == 3 and re.fullmatch(rb"\d{1,11}", fields[1]):
                return int(fields[1]) + self._lifetime
        return None

    def _without_session(self, value: bytes) -> bytes:
        """Return a Cookie header without the proxy's cookies, also where it joined two headers by a comma."""
        if not any(name in value for name in self._cookies):
            return value
        kept = [pair for pair in value.split(b";") if not any(name in pair for name in self._cookies)]
        return b";".join(kept).strip()


def _pair(credentials: bytes) -> bytes:
    """Return the user and the password of basic authentication (RFC 7617); nothing if they can't be read."""
    try:
        return base64.b64decode(credentials, validate=True)
    except binascii.Error:
        return b""
