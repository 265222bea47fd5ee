"""What is verified on this side, by its form: a key of ours, or a machine's token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatehouse.identities import keys
from gatehouse.policy.identity import Identity, IdentityError

if TYPE_CHECKING:
    from gatehouse.identities.keys import Keys
    from gatehouse.identities.tokens import Machines


class Credentials:
    """The identities behind credentials that the proxy hands on.

    Args:
        machines: by tokens; None if MACHINE_ISSUERS names nobody.
        known: by keys; None if API_KEYS is off.
    """

    def __init__(self, machines: Machines | None, known: Keys | None) -> None:
        self._machines = machines
        self._keys = known

    async def verify(self, text: str, address: str | None) -> Identity:
        """Return whose credential it is.

        Raises:
            IdentityError: with the rule that it breaks.
        """
        if self._keys is not None and text.startswith(keys.PREFIX):
            return await self._keys.verify(text, address)
        if self._machines is not None:
            return await self._machines.verify(text)
        raise IdentityError("This is no credential that is taken here.")
