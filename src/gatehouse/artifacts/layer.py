"""The bytes of artifacts, from the socket to the store and back, a piece at a time.

MLflow's own handlers take the detour of a temporary file, which on a serverless platform is memory. This layer serves
the routes that move an artifact's bytes to or from the store of ARTIFACTS_DESTINATION itself; whatever else comes
(listing, deleting, artifacts that lie elsewhere) goes on to MLflow unchanged. MLflow's own checks of Host and Origin
stay in front of it.

A transfer takes one piece of memory, whatever its size: the next one is asked for when the last one is gone, so a slow
side slows the other one down. See docs/artifacts.md for the limits.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import logging
import posixpath
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from email.utils import format_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl

from gatehouse.artifacts import boundary, paths, stores
from gatehouse.artifacts.stores.base import PIECE, Damaged, NotFound, Stat, StoreError
from gatehouse.bodies.reader import Disconnected, declared_length
from gatehouse.dispatch.turns import Turns
from gatehouse.request.responses import error_response, response, send_all
from gatehouse.upstream import workspaces
from gatehouse.upstream.artifacts import (
    check_attachment,
    content_disposition,
    is_served,
    media_type,
    path_in_store,
    trace_location,
)
from gatehouse.upstream.tracking_stores import registry_store, tracking_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from starlette.types import Message, Receive, Send

    from gatehouse.artifacts.stores.base import Sink, Source
    from gatehouse.operations.router import Route
    from gatehouse.request.context import Context, Handler

T = TypeVar("T")

#: Calls of a store at once. They never hold up MLflow's own handlers, which have threads of their own.
THREADS = 16
#: Transfers at once, in a process; each may hold a few pieces. The others wait, unread, for their turn.
TRANSFERS = 32
#: Bytes that a client must move within ARTIFACT_TIMEOUT, so that a byte now and then doesn't keep a transfer open.
PROGRESS = 64 * 1024
#: What MLflow's own handler of the UI's uploads takes (mlflow/server/handlers.py).
MAX_UI_UPLOAD = 10 * 1024 * 1024

_UPLOADS = frozenset({"upload_artifact", "serve_upload_artifact"})
#: Hashes of a client that are compared with what came (RFC 3230, RFC 9530); others are passed over.
_ALGORITHMS = {"md5": "md5", "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}

_log = logging.getLogger(__name__)


class _Refused(Exception):
    """The transfer can't be; the answer says why."""

    def __init__(self, status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(message)
        self.answer = error_response(status, code, message, headers)


def _invalid(message: str) -> _Refused:
    return _Refused(400, "INVALID_PARAMETER_VALUE", message)


# --- Which artifact a request means -------------------------------------------------------------------------


def _first(query: bytes) -> dict[str, str]:
    """Return the first value of each parameter, as Flask reads them."""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="replace")
    return dict(reversed(pairs))


def locate(operation: str, route: Route, query: Mapping[str, str]) -> str | None:
    """Return the path in the store of the artifact that a request means, or None if MLflow must see to it.

    Blocks: MLflow's database is asked where a run, a version, a model or a trace keeps its artifacts.

    Raises:
        BadPath: if no artifact may have that path.
        MlflowException: as MLflow's own handlers would, for instance because there is no such run.
    """
    if operation in {"download_artifact", "upload_artifact"}:
        return _in_store(paths.from_client(route.variables["artifact_path"]))
    named = query.get("artifact_file_path" if operation == "serve_get_logged_model_artifact" else "path")
    if not named:
        return None
    path = paths.from_client(named)
    tracking = tracking_store()
    if operation == "serve_artifacts":
        root = tracking.get_run(query.get("run_id") or query.get("run_uuid")).info.artifact_uri
    elif operation == "serve_upload_artifact":
        info = tracking.get_run(query.get("run_uuid")).info
        root = info.artifact_uri
        if is_served(root) and not workspaces.enabled():
            # MLflow's own handler doesn't look at the experiment's location here. With workspaces, where it would miss
            # the folder that the run's artifacts are listed from, this does.
            return paths.check(posixpath.join(info.experiment_id, info.run_id, "artifacts", path))
    elif operation == "serve_model_version_artifact":
        registry = registry_store()
        root = registry.get_model_version_download_uri(query.get("name"), query.get("version"))
    elif operation == "serve_get_logged_model_artifact":
        root = tracking.get_logged_model(route.variables["model_id"]).artifact_location
    else:
        check_attachment(path)
        trace = tracking.get_trace_info(query.get("request_id"))
        root = trace_location(trace)
        path = f"attachments/{path}"
    if not is_served(root):
        return None
    return _in_store(paths.check(path_in_store(root, path)))


def _in_store(path: str) -> str:
    """Return the path in the store that MLflow makes of one, for the request's workspace, and only within that one.

    Raises:
        BadPath: if it leads into another workspace.
    """
    if not workspaces.enabled():
        return path
    return boundary.check(paths.check(workspaces.path_in_store(path)))


_LOCATED = _UPLOADS | {
    "download_artifact",
    "serve_artifacts",
    "serve_model_version_artifact",
    "serve_get_logged_model_artifact",
    "serve_get_trace_artifact",
}


#: Operations that MLflow sees to, over our store, and the parameter with the path: bad ones hear the same as elsewhere.
_CHECKED = {
    "delete_artifact_mlflow_artifacts": "artifact_path",
    "list_artifacts": "path",
    "list_artifacts_mlflow_artifacts": "path",
    "list_logged_model_artifacts": "artifact_directory_path",
}


# --- What a client says about its bytes ---------------------------------------------------------------------


class _Digests:
    """The hashes that a client sent along, to compare with what came."""

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        #: Algorithm → its hasher and what it shall come to.
        self._expected: dict[str, tuple[Any, bytes]] = {}
        if value := headers.get(b"content-md5"):
            self._add("md5", value.decode("latin-1"))
        for name, text in _members(headers.get(b"digest", b"")):
            self._add(name, text)
        for header in (b"content-digest", b"repr-digest"):
            for name, text in _members(headers.get(header, b"")):
                # A structured field (RFC 8941): bytes stand between colons.
                if len(text) > 1 and text[0] == text[-1] == ":":
                    self._add(name, text[1:-1])

    def _add(self, name: str, value: str) -> None:
        algorithm = _ALGORITHMS.get(name.lower())
        if algorithm is None:
            return
        hasher = hashlib.new(algorithm, usedforsecurity=False)
        try:
            expected = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            expected = b""
        if len(expected) != hasher.digest_size:
            raise _invalid(f"The request's {name} digest isn't base64 of {hasher.digest_size} bytes.")
        if self._expected.setdefault(algorithm, (hasher, expected))[1] != expected:
            raise _invalid(f"The request has two different {name} digests.")

    def update(self, data: bytes) -> None:
        for hasher, _ in self._expected.values():
            hasher.update(data)

    def verify(self) -> None:
        """Raise what tells the client if another content came than it says."""
        for hasher, expected in self._expected.values():
            if hasher.digest() != expected:
                raise _invalid(
                    f"The content's {hasher.name} isn't the one that the request names: it was damaged on its way. "
                    "Nothing was stored."
                )


def _members(value: bytes) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a header that lists them, in time linear in its length."""
    for member in value.decode("latin-1").split(","):
        name, _, text = member.partition("=")
        yield name.strip(), text.strip()


# --- The layer ----------------------------------------------------------------------------------------------


class ArtifactLayer:
    """Layer: moves artifacts' bytes, and passes everything else on.

    Args:
        app: the next layer; MLflow.
        destination: ARTIFACTS_DESTINATION.
        limit: seconds in which a client must move PROGRESS bytes.
    """

    def __init__(self, app: Handler, destination: str, limit: float) -> None:
        self._app = app
        self._store = partial(stores.shared, destination)
        self._limit = limit
        self._pool = ThreadPoolExecutor(THREADS, "artifacts")
        self.slots = Turns(TRANSFERS)

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        route = context.route
        operation = route.operation if route else None
        if route is None or operation is None or (operation not in _LOCATED and operation not in _CHECKED):
            await self._app(context, send)
            return
        from mlflow.exceptions import MlflowException

        context.leave()  # transfers have a limit of their own
        query = _first(context.scope["query_string"])
        try:
            if operation in _CHECKED:
                paths.from_client({**query, **route.variables}.get(_CHECKED[operation], ""))
                path = None
            else:
                path = await self._call(locate, operation, route, query)
        except paths.BadPath as error:
            await send_all(send, error_response(400, "INVALID_PARAMETER_VALUE", str(error)))
        except MlflowException as error:
            await send_all(send, error_response(error.get_http_status_code(), error.error_code, error.message))
        else:
            if path is None:
                await self._app(context, send)
            else:
                await self._serve(context, path, send)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run what blocks in a thread, to its end, also if this task is cancelled:

        nothing may work on it any more then.
        """
        run = partial(copy_context().run, function, *arguments)
        future = asyncio.get_running_loop().run_in_executor(self._pool, run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await future
            raise

    async def _serve(self, context: Context, path: str, send: Send) -> None:
        """Move one artifact.

        Errors are answered in MLflow's shape as long as nothing was sent, and cut it off later.
        """
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        what = f"{context.method} {path}"
        try:
            if context.operation in _UPLOADS:
                answer = await self._upload(context, path)
            else:
                answer = await self._download(context, path, noting)
        except Disconnected:
            _log.info("%s: the client went away; nothing was stored", what)
            return
        except _Refused as error:
            answer = error.answer
        except StoreError as error:
            if error.status >= 500:
                _log.error("%s: %s", what, error, exc_info=error.__cause__)
            answer = error_response(error.status, error.code, str(error))
        except Exception:
            _log.exception("%s failed", what)
            answer = error_response(500, "INTERNAL_ERROR", "The artifact can't be moved; the server's log tells why.")
        # A response without its end makes the server close the connection, which the client can't take for success.
        if not started:
            await send_all(send, answer)

    @contextlib.asynccontextmanager
    async def _slot(self, context: Context) -> AsyncIterator[None]:
        """Wait for a place among the transfers."""
        async with contextlib.AsyncExitStack() as held:
            try:
                await asyncio.wait_for(held.enter_async_context(self.slots.turn(context.key)), self._limit)
            except TimeoutError:
                text = f"{TRANSFERS} artifacts are being moved already. Try again later."
                raise _Refused(503, "TEMPORARILY_UNAVAILABLE", text, (b"retry-after", b"10")) from None
            yield

    # --- Uploads

    async def _upload(self, context: Context, path: str) -> tuple[Message, Message]:
        """Store the request's body; return the answer."""
        from_ui = context.operation == "serve_upload_artifact"
        if not path or context.path.endswith("/"):
            raise _invalid("The artifact's path must end with a file's name.")
        if context.scope["query_string"] and not from_ui:
            # A name with a question mark that a client didn't encode; what stands before it would be stored.
            raise _invalid("An upload's address has no query: write the ? in the artifact's name as %3F.")
        length = declared_length(context)
        digests = _Digests(dict(context.scope["headers"]))
        most = MAX_UI_UPLOAD if from_ui else None
        async with self._slot(context):
            if most is not None and (length or 0) > most:
                raise _invalid("Artifact size is too large. Max size is 10MB.")
            sink = await self._call(lambda: self._store().create(path, length))
            try:
                stat = await self._fill(sink, context.receive, length, most, digests)
            except BaseException:
                await self._call(sink.abort)
                raise
        kind = "application/json" if from_ui else "text/plain; charset=utf-8"
        return response(200, kind, b"", [(b"etag", _quoted(stat))])

    async def _fill(
        self, sink: Sink, receive: Receive, length: int | None, most: int | None, digests: _Digests
    ) -> Stat:
        """Hand the body to the sink, a piece at a time, and commit it if it is what the client meant."""

        def write(data: bytes) -> None:
            digests.update(data)
            sink.write(data)

        came = 0
        more = True
        while more:
            piece, more = await self._piece(receive)
            came += len(piece)
            if most is not None and came > most:
                raise _invalid("Artifact size is too large. Max size is 10MB.")
            if piece:
                await self._call(write, piece)
        if most is not None and not came:
            raise _invalid("Request must specify data.")
        if length is not None and came != length:
            raise _invalid(f"{came} bytes came, and {length} were announced. Nothing was stored.")
        digests.verify()
        return await self._call(sink.commit)

    async def _piece(self, receive: Receive) -> tuple[bytes, bool]:
        """Return the next bytes of the body, and whether there are more.

        Raises:
            Disconnected: if the client went away.
        """
        loop = asyncio.get_running_loop()
        chunks: list[bytes] = []
        size = progress = 0
        more = True
        try:
            async with asyncio.timeout(self._limit) as patience:
                while more and size < PIECE:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Disconnected
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    chunks.append(chunk)
                    size += len(chunk)
                    progress += len(chunk)
                    if progress >= PROGRESS:
                        progress = 0
                        patience.reschedule(loop.time() + self._limit)
        except TimeoutError:
            text = f"Fewer than {PROGRESS} bytes came within {self._limit:g} s: given up. Nothing was stored."
            raise _Refused(408, "DEADLINE_EXCEEDED", text, (b"connection", b"close")) from None
        return b"".join(chunks), more

    # --- Downloads

    async def _download(self, context: Context, path: str, send: Send) -> tuple[Message, Message]:
        """Send an artifact, or return the answer that tells why not."""
        if not path:
            raise _invalid("The artifact's path names no file.")
        wanted = _Conditions(context)
        try:
            # A plain download asks the store once; all others must know what there is first.
            known = None if wanted.plain else await self._call(lambda: self._store().stat(path))
            if known is not None and (answer := wanted.answer_without_body(known, path)):
                return answer
            start, stop = wanted.part(known)
            async with self._slot(context):
                etag = known.etag if known else None
                source = await self._call(lambda: self._store().open(path, start, stop, etag))
                try:
                    await self._send(source, path, start, stop, context.receive, send)
                finally:
                    await self._call(source.close)
        except NotFound:
            if await self._call(lambda: next(self._store().list(path), None)) is None:
                raise
            raise _invalid(f"Artifact path refers to a directory, not a file: {path!r}") from None
        return _EMPTY

    async def _send(
        self, source: Source, path: str, start: int, stop: int | None, receive: Receive, send: Send
    ) -> None:
        stat = source.stat
        end = stat.size if stop is None else stop
        # The first piece before the answer, so that a store that fails at once is an error and no broken download.
        piece = await self._call(source.read)
        headers = [*_headers(stat, path), (b"content-length", str(end - start).encode())]
        if stop is not None:
            headers.append((b"content-range", f"bytes {start}-{stop - 1}/{stat.size}".encode()))
        await send({"type": "http.response.start", "status": 200 if stop is None else 206, "headers": headers})
        gone = asyncio.create_task(_until_gone(receive))
        left = end - start
        try:
            while piece and not gone.done():
                left -= len(piece)
                for at in range(0, len(piece), PROGRESS):
                    async with asyncio.timeout(self._limit):
                        chunk = piece[at : at + PROGRESS]
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                piece = await self._call(source.read)
            if left == 0:
                async with asyncio.timeout(self._limit):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
            elif not gone.done():
                raise Damaged(f"{path!r} ended {left} bytes early.")
        except TimeoutError:
            _log.warning("GET %s: the client took fewer than %d bytes in %g s: cut off", path, PROGRESS, self._limit)
        finally:
            gone.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Conditions:
    """What a request for an artifact asks for besides its bytes (RFC 9110, sections 13 and 14)."""

    _NAMES = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range")

    def __init__(self, context: Context) -> None:
        pairs = reversed(context.scope["headers"])
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
        self._headers = {name: headers[name] for name in self._NAMES if name in headers}
        self._is_head = context.method == "HEAD"
        self.plain = not self._is_head and not self._headers

    def answer_without_body(self, stat: Stat, path: str) -> tuple[Message, Message] | None:
        """Return the answer where no bytes are to be sent:

        unchanged, a condition that fails, HEAD, a range beyond the end.
        """
        from werkzeug.http import parse_date
        from werkzeug.sansio.http import is_resource_modified

        asked = self._headers
        fixed = [(name, value) for name, value in _headers(stat, path) if name != b"content-type"]
        if "if-match" not in asked and (since := parse_date(asked.get("if-unmodified-since"))) and stat.modified:
            if stat.modified.replace(microsecond=0) > since:
                return _bodyless(412, fixed)
        elif not is_resource_modified(
            http_if_modified_since=asked.get("if-modified-since"),
            http_if_none_match=asked.get("if-none-match"),
            http_if_match=asked.get("if-match"),
            etag=stat.etag,
            last_modified=stat.modified,
        ):
            return _bodyless(412 if "if-match" in asked else 304, fixed)
        if self._is_head:
            return _bodyless(200, [*_headers(stat, path), (b"content-length", str(stat.size).encode())])
        if self._range(stat) is None:
            return error_response(
                416,
                "INVALID_PARAMETER_VALUE",
                f"The range isn't in the artifact's {stat.size} bytes.",
                [(b"content-range", f"bytes */{stat.size}".encode())],
            )
        return None

    def part(self, stat: Stat | None) -> tuple[int, int | None]:
        """Return the first byte to send, and the one after the last, or None for all."""
        return (0, None) if stat is None else self._range(stat) or (0, None)

    def _range(self, stat: Stat) -> tuple[int, int | None] | None:
        """Return the range, (0, None) for all of it, or None for one that isn't there."""
        from werkzeug.http import parse_if_range_header, parse_range_header

        parsed = parse_range_header(self._headers.get("range"))
        # Several ranges are answered by the whole, as section 14.2 allows; so is what isn't understood.
        if parsed is None or parsed.units != "bytes" or len(parsed.ranges) != 1:
            return 0, None
        condition = parse_if_range_header(self._headers.get("if-range"))
        if condition.etag is not None and condition.etag != stat.etag:
            return 0, None
        if condition.date is not None and (
            stat.modified is None or stat.modified.replace(microsecond=0) != condition.date
        ):
            return 0, None
        found: tuple[int, int] | None = parsed.range_for_length(stat.size)
        return found


def _quoted(stat: Stat) -> bytes:
    return f'"{stat.etag}"'.encode()


def _headers(stat: Stat, path: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of an artifact, whichever part of it is sent."""
    kind = media_type(path)
    headers = [
        (b"content-type", (f"{kind}; charset=utf-8" if kind.startswith("text/") else kind).encode()),
        # Whatever somebody stored must not run as this site: not opened but saved, and if opened, in a sandbox.
        (
            b"content-disposition",
            content_disposition(posixpath.basename(path)).encode("latin-1", "replace"),
        ),
        (b"content-security-policy", b"sandbox; default-src 'none'"),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"private, no-cache"),
        (b"accept-ranges", b"bytes"),
        (b"etag", _quoted(stat)),
    ]
    if stat.modified:
        headers.append((b"last-modified", format_datetime(stat.modified, usegmt=True).encode()))
    return headers


def _bodyless(status: int, headers: list[tuple[bytes, bytes]]) -> tuple[Message, Message]:
    if status == 412:
        headers = [*headers, (b"content-length", b"0")]
    return {"type": "http.response.start", "status": status, "headers": headers}, {
        "type": "http.response.body",
        "body": b"",
    }


_EMPTY = _bodyless(200, [])
