"""The classes of operations: what one does, from harmless to never."""

from __future__ import annotations

from enum import IntEnum


class Access(IntEnum):
    """What an operation does, from harmless to never; see :mod:`gatehouse.policy.roles` for who may."""

    READ = 1
    WRITE = 2
    #: Can't be undone, costs or spends by itself, or touches secrets.
    ADMIN = 3
    #: For nobody.
    CLOSED = 4
