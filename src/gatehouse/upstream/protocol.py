"""uvicorn's HTTP/1.1, without the trailers of a request."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Protocol(HttpToolsProtocol):
    """Drops what stands behind a chunked body:

    uvicorn would append it to the headers that the proxy's identity is read from.

    Relies on httptools' callbacks, which it calls by name. tests/access/test_boundary.py sends trailers.
    """

    _in_headers = True

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_headers = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, and no trailer."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the body."""
        self._in_headers = False
        super().on_headers_complete()
