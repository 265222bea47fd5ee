"""What ``gatehouse backup`` and ``gatehouse restore`` say, and what they end with."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gatehouse.exit_codes import Exit

if TYPE_CHECKING:
    from collections.abc import Callable


def run(command: str, work: Callable[[Callable[[str], None]], None]) -> int:
    """Do a command's work, which is given what prints a line of progress on stderr.

    Returns:
        0, or the exit code of what is wrong, which has been told.
    """
    from gatehouse.artifacts.stores.base import StoreError
    from gatehouse.database.reach import SchemaError
    from gatehouse.moving.archive import ArchiveError
    from gatehouse.start.settings import Invalid

    def say(message: str) -> None:
        print(f"gatehouse {command}: {message}", file=sys.stderr, flush=True)

    try:
        work(say)
    except Invalid as error:
        say(f"error: the place {error.what}\n    fix: {error.fix}")
        return Exit.USAGE
    except ArchiveError as error:
        say(f"error: {error}")
        return Exit.INCOMPLETE
    except SchemaError as error:
        say(f"error: {error}")
        return error.code
    except StoreError as error:
        say(f"error: {error}")
        return Exit.UNAVAILABLE
    say("done")
    return Exit.OK
