"""What goes wrong in the cloud, told apart by kind; and texts without secrets."""

from __future__ import annotations

import threading
from typing import Literal

#: missing: it does not exist. denied: a right is missing. disabled: the API is not on (yet). exists: somebody made it
#: meanwhile. later: it passes by itself (an overloaded service, two writers, a right that is not known everywhere yet).
Kind = Literal["missing", "denied", "disabled", "exists", "later", "other"]

#: A secret value in a text that people see.
REDACTED = "[REDACTED]"


class CloudError(Exception):
    """A call failed.

    `what` was called, `kind` says how it failed, `permission` names the missing right where Google did, `fix` what to
    do.
    """

    def __init__(self, what: str, kind: Kind, message: str, fix: str = "", permission: str = "") -> None:
        super().__init__(f"{message}\n{fix}".strip())
        self.what, self.kind, self.message, self.fix, self.permission = what, kind, message, fix, permission


class Redactor:
    """Knows the secrets of this process, and takes them out of texts. Safe to use from several threads."""

    def __init__(self) -> None:
        self._values: set[str] = set()
        self._lock = threading.Lock()

    def know(self, value: str) -> str:
        """Remember a secret and return it."""
        if value:
            with self._lock:
                self._values.add(value)
        return value

    def clean(self, text: str) -> str:
        """Return the text without the secrets."""
        with self._lock:
            values = sorted(self._values, key=len, reverse=True)
        for value in values:
            text = text.replace(value, REDACTED)
        return text
