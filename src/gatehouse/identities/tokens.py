"""Verifies a machine's token (a JWT, RFC 7519): signature, issuer, audience, times, algorithm; nothing goes on trust.

PyJWT does the cryptography. What stands around it here is what RFC 8725 (JSON Web Token Best Current Practices) asks of
whoever uses such a library: the key comes from the issuer's key set alone, by the one issuer that the setting names,
and its kind must be the algorithm's.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from gatehouse.identities.keyset import KeySet, NoKeys
from gatehouse.policy.identity import Identity, IdentityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gatehouse.identities.issuers import Issuer

#: Algorithm → the kind of key and, for curves, which. HMAC isn't among them: whoever verifies could sign.
ALGORITHMS: dict[str, tuple[str, str | None]] = {
    "RS256": ("RSA", None), "RS384": ("RSA", None), "RS512": ("RSA", None),
    "PS256": ("RSA", None), "PS384": ("RSA", None), "PS512": ("RSA", None),
    "ES256": ("EC", "P-256"), "ES384": ("EC", "P-384"), "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}  # fmt: skip
#: The header's parameters that mean nothing dangerous; every other one is refused (RFC 7515, 4.1: those that name or
#: hold a key, ``crit``; RFC 7519: ``cty`` of a nested token; RFC 7797: ``b64``).
HEADER = frozenset({"alg", "kid", "typ", "x5t", "x5t#S256"})
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
MAX_TOKEN = 16 * 1024
#: OpenID Connect Core, 2.
MAX_SUBJECT = 255
MAX_KID = 255
MIN_RSA_BITS = 2048
#: Seconds by which clocks may differ.
LEEWAY = 30
#: Claims of a token that stands for a person who has signed in. Where a claim other than ``sub`` tells machines apart
#: (the client's id, for example), it stands in a person's token too.
OF_PEOPLE = ("auth_time", "nonce", "scp", "session_state", "sid")
MAX_GROUPS = 200
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


def _part(text: str) -> dict[str, Any]:
    """Return the JSON object of a part of a token."""
    try:
        value = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise IdentityError("The token isn't a JWT: a part of it isn't JSON in base64url.") from None
    if not isinstance(value, dict):
        raise IdentityError("The token isn't a JWT: a part of it isn't a JSON object.")
    return value


def _algorithm(header: dict[str, Any]) -> str:
    """Return the algorithm of an acceptable header, or raise IdentityError."""
    foreign = sorted(set(header) - HEADER)
    if foreign:
        raise IdentityError(
            f"The token's header has {foreign[0][:40]!r}, which isn't taken: keys come from the issuer alone."
        )
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise IdentityError(f"The token's algorithm isn't one of {', '.join(ALGORITHMS)}.")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise IdentityError("The token's type (typ) isn't JWT.")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID):
        raise IdentityError("The token's key id (kid) isn't a text of at most 255 characters.")
    return algorithm


def fits(key: dict[str, Any], algorithm: str) -> bool:
    """Return whether a published key may sign with an algorithm."""
    kind, curve = ALGORITHMS[algorithm]
    return (
        key.get("kty") == kind
        and (curve is None or key.get("crv") == curve)
        and key.get("alg", algorithm) == algorithm
        and key.get("use", "sig") == "sig"
        and ("key_ops" not in key or (isinstance(key["key_ops"], list) and "verify" in key["key_ops"]))
    )


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11


class Machines:
    """Machines' identities, by the tokens of a few issuers.

    Args:
        issuers: each with its audiences.
        clock: now, in seconds since the epoch.
    """

    def __init__(self, issuers: Iterable[Issuer], clock: Callable[[], float] = time.time) -> None:
        self._issuers = {issuer.url: (issuer, KeySet(issuer)) for issuer in issuers}
        self._clock = clock
        self._told: dict[str, str] = {}

    async def verify(self, token: str) -> Identity:
        """Return whose token it is.

        Raises:
            IdentityError: with the rule that it breaks; the text goes to whoever sent it.
        """
        if len(token) > MAX_TOKEN:
            raise IdentityError(f"The token has {len(token)} characters; none may have more than {MAX_TOKEN}.")
        if not _TOKEN.fullmatch(token):
            raise IdentityError("The token isn't a signed JWT in three parts.")
        header, claims = (_part(text) for text in token.split(".")[:2])
        algorithm = _algorithm(header)
        url = claims.get("iss")
        if not isinstance(url, str) or url not in self._issuers:
            raise IdentityError("The token's issuer isn't one that this server takes machines' tokens of.")
        issuer, keys = self._issuers[url]
        try:
            candidates = await keys.candidates(header.get("kid"), lambda key: fits(key, algorithm))
        except NoKeys as error:
            self._tell(issuer, str(error))
            raise IdentityError(f"The keys of the issuer {issuer.name} can't be fetched now; try again.") from None
        return self._identity(issuer, self._claims(token, issuer, algorithm, candidates[:4]))

    def _claims(self, token: str, issuer: Issuer, algorithm: str, candidates: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the claims of a token that one of the keys has signed, for this server, and for now."""
        import jwt

        options: Any = {
            "require": ["iss", "aud", "exp"], "verify_exp": False, "verify_nbf": False, "verify_iat": False,
            "verify_sub": False, "verify_jti": False,
        }  # fmt: skip
        for published in candidates:
            try:
                key = jwt.PyJWK(published, algorithm)
                if getattr(key.key, "key_size", MIN_RSA_BITS) < MIN_RSA_BITS and key.key_type == "RSA":
                    continue
                claims: dict[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    issuer=issuer.url,
                    audience=list(issuer.audiences),
                    options=options,
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.MissingRequiredClaimError as error:
                raise IdentityError(f"The token lacks the claim {error.claim}.") from None
            except jwt.InvalidAudienceError:
                wanted = " or ".join(issuer.audiences)
                raise IdentityError(
                    f"The token is for another audience; ask {issuer.name} for one for {wanted}."
                ) from None
            except jwt.InvalidIssuerError:
                raise IdentityError("The token's issuer isn't a text.") from None
            except (jwt.PyJWTError, ValueError, TypeError, KeyError):
                continue
            self._check_times(claims)
            return claims
        raise IdentityError(f"The token isn't signed by a key that the issuer {issuer.name} publishes.")

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._clock()
        for name in ("exp", "nbf", "iat"):
            if name in claims and not _is_time(claims[name]):
                raise IdentityError(f"The token's {name} isn't a time in seconds.")
        if claims["exp"] + LEEWAY <= now:
            raise IdentityError("The token has expired; ask for a new one.")
        if max(claims.get("nbf", 0), claims.get("iat", 0)) - LEEWAY > now:
            raise IdentityError("The token isn't valid yet (nbf or iat): compare the clocks.")

    def _identity(self, issuer: Issuer, claims: dict[str, Any]) -> Identity:
        if issuer.subject != "sub" and any(name in claims for name in OF_PEOPLE):
            raise IdentityError("The token is that of somebody who has signed in, and no machine's.")
        subject = claims.get(issuer.subject)
        if not isinstance(subject, str) or not re.fullmatch(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", subject):
            raise IdentityError(f"The token's claim {issuer.subject} isn't a text of ASCII letters, digits and signs.")
        if len(subject) > MAX_SUBJECT:
            raise IdentityError(f"The token's claim {issuer.subject} has more than {MAX_SUBJECT} characters.")
        return Identity(
            email=issuer.short(subject), subject=subject, groups=_groups(claims, issuer), issuer=issuer.name
        )

    def _tell(self, issuer: Issuer, problem: str) -> None:
        """Say once, and again when it changes, why an issuer's keys can't be had."""
        if self._told.get(issuer.name) != problem:
            self._told[issuer.name] = problem
            text = f"gatehouse: error: the keys of the issuer {issuer.name} can't be fetched: {problem}"
            print(text, file=sys.stderr, flush=True)


def _groups(claims: dict[str, Any], issuer: Issuer) -> tuple[str, ...]:
    value = claims.get(issuer.groups) if issuer.groups else None
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    names = (name for name in listed[:MAX_GROUPS] if isinstance(name, str) and name.isprintable() and "," not in name)
    return tuple(dict.fromkeys(name for name in names if name))
