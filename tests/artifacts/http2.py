"""An HTTP/2 client without manners: it sends what it is told, valid or not, over one cleartext connection."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from types import TracebackType

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset

LIMIT_S = 30


@dataclass
class Answer:
    """What came back on a stream; status 0 for one that was reset, or whose connection was closed."""

    status: int = 0
    body: bytes = b""
    ended: bool = False


@dataclass
class Upload:
    """The part of a request's body that is still to be sent."""

    rest: bytes
    end: bool = True
    sent: int = field(default=0)


class Http2:
    """One connection by prior knowledge (RFC 9113, 3.3)."""

    def __init__(self, port: int, token: str) -> None:
        self.token = token
        self.port = port
        lax = H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False, validate_inbound_headers=False
        )
        self.state = H2Connection(lax)
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.answers: dict[int, Answer] = {}
        self.uploads: dict[int, Upload] = {}
        self.closed = False
        self.state.initiate_connection()
        self._flush()
        # Until the server's settings are here, the windows are the protocol's defaults.
        self._read(LIMIT_S)

    def __enter__(self) -> Http2:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(
        self,
        method: str,
        path: str,
        *extra: tuple[str, str],
        body: bytes | None = None,
        end: bool = True,
        authority: str = "",
    ) -> int:
        """Begin a request with exactly these headers; ``end=False`` leaves its body open.

        Return the stream's number.
        """
        stream = self.state.get_next_available_stream_id()
        headers = [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority or f"localhost:{self.port}"),
        ]
        headers = [pair for pair in headers if pair[1] != "-"]
        self.state.send_headers(
            stream, [*headers, ("authorization", f"Bearer {self.token}"), *extra], end_stream=body is None
        )
        self.answers[stream] = Answer()
        if body is not None:
            self.uploads[stream] = Upload(body, end)
        self._flush()
        return stream

    def ask(
        self, method: str, path: str, *extra: tuple[str, str], body: bytes | None = None, authority: str = ""
    ) -> Answer:
        """Send a request and wait for its answer."""
        return self.wait(self.send(method, path, *extra, body=body, authority=authority))

    def wait(self, stream: int) -> Answer:
        """Wait for the answer on a stream, feeding all bodies meanwhile."""
        deadline = time.monotonic() + LIMIT_S
        answer = self.answers[stream]
        while not answer.ended and not self.closed:
            assert time.monotonic() < deadline, f"no answer on stream {stream} within {LIMIT_S} s"
            self.feed()
        return answer

    def feed(self, patience_s: float = 0.05) -> int:
        """Send what the windows allow and read what there is; return how many bytes of bodies went out."""
        went = 0
        for stream, upload in list(self.uploads.items()):
            while upload.rest and not self.closed:
                size = min(
                    len(upload.rest), self.state.local_flow_control_window(stream), self.state.max_outbound_frame_size
                )
                if size <= 0:
                    break
                went += size
                upload.sent += size
                self.state.send_data(stream, upload.rest[:size], end_stream=upload.end and size == len(upload.rest))
                upload.rest = upload.rest[size:]
                self._flush()
            if not upload.rest:
                del self.uploads[stream]
        self._read(patience_s)
        return went

    def _flush(self) -> None:
        try:
            self.socket.sendall(self.state.data_to_send())
        except OSError:
            self.closed = True

    def _read(self, patience_s: float) -> None:
        self.socket.settimeout(patience_s)
        try:
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            data = b""
        finally:
            self.socket.settimeout(LIMIT_S)
        if not data:
            self.closed = True
            return
        for event in self.state.receive_data(data):
            self._take(event)
        self._flush()

    def _take(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.closed = True
            return
        stream = getattr(event, "stream_id", None)
        answer = self.answers.get(stream) if isinstance(stream, int) else None
        if answer is None:
            return
        if isinstance(event, ResponseReceived):
            assert event.headers is not None
            answer.status = int(dict(event.headers)[b":status"])
        elif isinstance(event, DataReceived):
            assert event.data is not None
            assert event.flow_controlled_length is not None
            answer.body += event.data
            self.state.acknowledge_received_data(event.flow_controlled_length, int(str(stream)))
        elif isinstance(event, StreamEnded | StreamReset):
            answer.ended = True
            self.uploads.pop(int(str(stream)), None)
