"""What a worker and the supervisor say to each other about the audit log: one message a datagram, on a socket pair.

The supervisor (:mod:`gatehouse.start.output`) is the log's one writer; a worker's end is
:class:`gatehouse.audit.log.AuditLog`. Imports the standard library's smallest parts alone: the supervisor is a
small process.
"""

from __future__ import annotations

import socket
import struct

#: A write of so many bytes to a pipe is not mixed with that of another process (pipe(7), PIPE_BUF).
MAX_LINE = 4096

# From a worker.
#: The line to write should the worker die before it sends WRITE with the same number.
OPEN = b"O"
#: Write the line, and answer with WRITTEN or FAILED.
WRITE = b"W"
#: Does each worker answer? The supervisor says so by HEALTHY or UNHEALTHY.
ASK = b"Q"
#: The answer to PING.
PONG = b"p"

# From the supervisor.
WRITTEN = b"w"
#: With what the system says.
FAILED = b"f"
PING = b"P"
HEALTHY = b"h"
UNHEALTHY = b"u"

_HEAD = struct.Struct("!cQ")
#: The longest message: a line, or what the system says, and its head.
LONGEST = _HEAD.size + MAX_LINE


def pack(kind: bytes, number: int, text: bytes = b"") -> bytes:
    """Return a message."""
    return _HEAD.pack(kind, number) + text


def unpack(message: bytes) -> tuple[bytes, int, bytes]:
    """Return the kind, the number and the text of a message."""
    kind, number = _HEAD.unpack_from(message)
    return kind, number, message[_HEAD.size :]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return a connected pair of sockets that keep messages apart and never wait."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends
