"""The exit codes of start.sh and of the ``gatehouse`` command: one home, in the ranges of sysexits.h.

start.sh passes the code of whichever part ended first through, so each says what happened.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What ended the container, or the command."""

    OK = 0
    #: The command line was wrong.
    USAGE = 64
    #: The database's schema is older than the installed MLflow's: ``gatehouse migrate`` upgrades it.
    SCHEMA_OLDER = 65
    #: The database or the artifact store can't be reached or refuses.
    UNAVAILABLE = 69
    #: MLflow ended: before it was ready, or while it served.
    SERVER_ENDED = 70
    #: OAuth2 Proxy ended, or the HTTP/2 listener in front of it.
    PROXY_ENDED = 71
    #: Requests were still running SHUTDOWN_TIMEOUT seconds after TERM.
    CUT_OFF = 72
    #: A folder isn't writable, the disk is full or the port is taken.
    CANNOT_CREATE = 73
    #: ``gatehouse gc`` couldn't remove all that it should, ``gatehouse import`` bring all along, or
    #: ``gatehouse backup`` and ``restore`` do what they should.
    INCOMPLETE = 74
    #: MLflow wasn't ready within STARTUP_TIMEOUT.
    NOT_READY = 75
    #: The database's schema is newer than the installed MLflow, or isn't MLflow's.
    SCHEMA_UNKNOWN = 76
    #: A setting is missing, malformed or contradicts another one.
    SETTINGS = 78
