"""An identity token: its claims and how long it lives.

Claims are read for messages and for timing alone. Whether a token is genuine is the server's to verify.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: A token is renewed this many seconds before it ends, or at 4/5 of its life if that is later.
EARLY = 300.0


def claims_of(value: str) -> dict[str, Any]:
    """Return the claims of a JSON Web Token, without verifying it; ``{}`` if it isn't one."""
    try:
        _, payload, _ = value.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True)
class IdentityToken:
    """A token as a source gave it. ``repr`` shows neither the token nor its signature."""

    value: str = field(repr=False)
    source: str
    renew_at: float = field(compare=False)
    ends_at: float = field(compare=False)
    claims: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def parse(
        cls, value: str, source: str, clock: Callable[[], float] = time.time, *, minted: bool = True
    ) -> IdentityToken:
        """Read a token. An opaque one counts as living for ever.

        Its times are of the issuer's clock. Where ours disagrees so far that a token just ``minted`` seems to
        be over already, half its nominal life is counted from now: better one refused request than a renewal
        for each.
        """
        value = value.strip()
        claims = claims_of(value)
        ends = _seconds(claims.get("exp"))
        if ends is None:
            return cls(value, source, float("inf"), float("inf"), claims)
        now = clock()
        life = max(ends - (_seconds(claims.get("iat")) or now), 1.0)
        left = ends - now
        if left <= 0 and minted:
            left = life / 2
        left = min(left, life)
        return cls(value, source, now + left - min(EARLY, life / 5), now + left, claims)

    def living(self, now: float) -> bool:
        """True until the token ends."""
        return now < self.ends_at

    def fresh(self, now: float) -> bool:
        """True until the token should be renewed."""
        return now < self.renew_at

    @property
    def email(self) -> str | None:
        """The e-mail claim, by which the gate judges."""
        email = self.claims.get("email")
        return email if isinstance(email, str) else None

    @property
    def audiences(self) -> tuple[str, ...]:
        """The ``aud`` claim, always as a tuple."""
        audience = self.claims.get("aud", ())
        return (audience,) if isinstance(audience, str) else tuple(map(str, audience))
