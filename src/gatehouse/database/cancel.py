"""Ask PostgreSQL to end a query, while everybody else goes on.

psycopg2's ``connection.cancel()`` connects to the server with the interpreter's lock held (``psyco_conn_cancel`` in its
connection_type.c): where the server has gone silent, no thread of the process runs until the kernel gives up. Here
libpq's functions are called by ctypes, which lets the lock go.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from typing import Any

import psycopg2._psycopg

#: Cancellations that wait for the network at once. With a server that takes connections and says nothing each one stays
#: for ever; its query ends by the end of its connection then.
AT_ONCE = 8
_under_way = threading.BoundedSemaphore(AT_ONCE)


@functools.cache
def _libpq() -> Any:
    """Return the very libpq that psycopg2 is linked with."""
    library = ctypes.CDLL(psycopg2._psycopg.__file__)
    library.PQgetCancel.argtypes, library.PQgetCancel.restype = [ctypes.c_void_p], ctypes.c_void_p
    library.PQfreeCancel.argtypes, library.PQfreeCancel.restype = [ctypes.c_void_p], None
    library.PQcancel.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    library.PQcancel.restype = ctypes.c_int
    return library


class Query:
    """What a connection is doing, to be ended from any thread.

    Args:
        connection: psycopg2's, connected, and used by nobody else while this is made.
    """

    def __init__(self, connection: Any) -> None:
        libpq = _libpq()
        self._connection = connection
        # What libpq needs for it is copied: the connection may be closed at any moment.
        self._handle = libpq.PQgetCancel(connection.pgconn_ptr)
        if self._handle:
            weakref.finalize(self, libpq.PQfreeCancel, self._handle)

    def cancel(self) -> None:
        """Ask the server to end it; blocks for as long as the network does, and raises nothing."""
        if self._handle and _under_way.acquire(blocking=False):
            try:
                said = ctypes.create_string_buffer(256)
                _libpq().PQcancel(self._handle, said, len(said))
            finally:
                _under_way.release()

    def fileno(self) -> int:
        """Return the connection's socket.

        Raises:
            psycopg2.InterfaceError: if the connection is closed.
        """
        return int(self._connection.fileno())
