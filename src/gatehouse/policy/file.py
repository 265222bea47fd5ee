"""The access policy as a start reads it, once: the supervisor checks it, and hands it to the server with the plan."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatehouse.policy.roles import OPEN_TO_EDITORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gatehouse.policy.reader import Vouching
    from gatehouse.policy.roles import Policy


@dataclass(frozen=True)
class PolicyFile:
    """The policy's file as a start read it: once, before anything else begins.

    Attributes:
        path: the file, or None without one: then :data:`OPEN_TO_EDITORS` holds.
        environment: ``APP_ENV``, which chooses the section.
        content: the bytes that were read.
        policy: what they say.
        issuers: who vouches for machines; None if that isn't known, and then no machine has a role.
        read_at: when, by this machine's monotonic clock, in seconds.
    """

    path: Path | None
    environment: str
    content: bytes | None
    policy: Policy
    read_at: float
    issuers: Sequence[Vouching] | None = None

    @classmethod
    def read(cls, path: Path | None, environment: str, issuers: Sequence[Vouching] | None = ()) -> PolicyFile:
        """Read and parse the file.

        Raises:
            PolicyError: with every problem of the file, or that it can't be read.
        """
        read_at = time.monotonic()
        if path is None:
            return cls(None, environment, None, OPEN_TO_EDITORS, read_at)
        # Not before it is needed: it brings the parser of YAML.
        from gatehouse.policy.reader import PolicyError, PolicyProblem, parse

        try:
            content = path.read_bytes()
        except OSError as error:
            problem = PolicyProblem(str(path), str(error.strerror), "mount the file, or correct ACCESS_POLICY")
            raise PolicyError([problem]) from None
        policy = parse(content, environment, str(path), issuers)
        return cls(path, environment, content, policy, read_at, issuers)
