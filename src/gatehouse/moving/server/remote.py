"""Another MLflow server over HTTP: bounded answers, retries, and a credential that goes to that server alone."""

from __future__ import annotations

import json
import os
import posixpath
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.auth import HTTPBasicAuth

#: Requests that run at once.
READERS = 4
#: Tries of one request; the waits between them double from half a second.
TRIES = 6
FIRST_WAIT_S = 0.5
#: No server makes us wait longer, whatever its Retry-After says.
LONGEST_WAIT_S = 60.0
#: Seconds to connect, and between two pieces of an answer.
TIMEOUTS_S = (10.0, 120.0)
#: The largest answer that is read into memory, in bytes.
MAX_ANSWER = 256 * 2**20
#: How deep folders of artifacts may lie in each other.
MAX_DEPTH = 64
PIECE = 2**20
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"

Auth = Callable[[requests.PreparedRequest], requests.PreparedRequest]


class Unusable(Exception):
    """The address or the credential can't be used; the text has the fix."""


class ServerError(Exception):
    """The server didn't answer as it should.

    Attributes:
        status: HTTP's, or 0 if there was no answer.
        no_route: whether the server has nothing at that path, rather than not the thing that was asked for.
    """

    def __init__(self, what: str, status: int = 0, no_route: bool = False) -> None:
        super().__init__(what)
        self.status = status
        self.no_route = no_route

    @property
    def of_one_thing(self) -> bool:
        """Whether it is about what was asked for, rather than about the server or the account."""
        return 400 <= self.status <= 500 and self.status not in {401, 408, 425, 429}


class Interrupted(ServerError):
    """The connection ended within an answer: the whole of it may be asked for again."""


def wait(attempt: int) -> None:
    """Wait before the next try of what failed; ``attempt`` counts from 0."""
    time.sleep(FIRST_WAIT_S * 2**attempt)


class Remote:
    """A server; any thread may call it.

    Args:
        url: its address, with a path if it lies below one.
        environment: where MLFLOW_TRACKING_TOKEN, or …_USERNAME and …_PASSWORD, may stand.
        insecure: whether a credential may go over http:// to another machine.

    Raises:
        Unusable: if the address has a credential in it, or one would go over the network readably.
    """

    def __init__(self, url: str, environment: Mapping[str, str] = os.environ, insecure: bool = False) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise Unusable(
                "the address has a credential in it, which every process of the machine can read\n    fix: set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
            )
        if not parts.hostname or parts.query or parts.fragment:
            raise Unusable(f"{url!r} is no server's address\n    fix: https://HOST, with a path if it lies below one")
        #: As the report and the marks call it.
        self.name = f"{parts.scheme}://{parts.netloc.lower()}{parts.path.rstrip('/')}"
        self.host = parts.netloc.lower()
        self._auth = _credential(environment)
        if self._auth and parts.scheme == "http" and parts.hostname not in LOOPBACK and not insecure:
            raise Unusable(
                f"the credential would go to {parts.hostname} readably\n    fix: https://, or --insecure if the "
                "network between is yours"
            )
        self._verify: str | bool = environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
        self._threads = threading.local()

    def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what a GET answers, an object of JSON.

        Raises:
            ServerError: if it answers anything else, or not at all after some tries.
        """
        return self._object("GET", path, parameters, None)

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a POST answers; only such are asked that change nothing.

        Raises:
            ServerError: as for :meth:`get`.
        """
        return self._object("POST", path, None, body)

    def pages(
        self, path: str, what: str, query: Mapping[str, Any], post: bool = False
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield the pages of a list.

        Args:
            what: the field that has the list.
            query: the parameters, or with ``post`` the body.
        """
        token, seen = "", set()
        while True:
            asked = {**query, "page_token": token} if token else query
            answer = self.post(path, asked) if post else self.get(path, asked)
            yield list(answer.get(what) or ())
            token = str(answer.get("next_page_token") or "")
            if not token:
                return
            if token in seen:
                raise ServerError(f"{path} never ends: it names the same next page twice")
            seen.add(token)

    def files(self, folder: str) -> Iterator[tuple[str, int | None]]:
        """Yield path and size of each file below a folder of the artifacts that the server keeps.

        The paths begin below the folder. A name that is no plain one is a ServerError.
        """
        yield from self._walk(folder.strip("/"), "", 0)

    def _walk(self, folder: str, below: str, depth: int) -> Iterator[tuple[str, int | None]]:
        if depth > MAX_DEPTH:
            raise ServerError(f"{below}: folders lie more than {MAX_DEPTH} deep")
        listed = self.get(_ARTIFACTS, {"path": posixpath.join(folder, below)})
        for entry in listed.get("files") or ():
            name = str(entry["path"])
            if name in {"", ".", ".."} or "/" in name:
                raise ServerError(f"the server lists {name!r}, which is no name of a file")
            path = posixpath.join(below, name)
            if entry.get("is_dir"):
                yield from self._walk(folder, path, depth + 1)
            else:
                yield path, int(entry["file_size"]) if "file_size" in entry else None

    def download(self, path: str) -> Iterator[bytes]:
        """Yield a file that the server keeps, a piece at a time.

        Raises:
            Interrupted: if it ends too early.
            ServerError: if it can't be had.
        """
        answer = self._send("GET", f"{_ARTIFACTS}/{quote(path.strip('/'))}", None, None)
        with answer:
            try:
                yield from answer.iter_content(PIECE)
            except requests.RequestException as error:
                raise Interrupted(f"the connection ended within {path}: {plain(error)}") from None

    def _object(
        self, method: str, path: str, parameters: Mapping[str, Any] | None, body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        for attempt in range(TRIES):
            answer = self._send(method, path, parameters, body)
            try:
                text = _bounded(answer, path)
            except requests.RequestException as error:
                if attempt == TRIES - 1:
                    raise ServerError(f"{path}: the connection ends within the answer: {plain(error)}") from None
                wait(attempt)
                continue
            finally:
                answer.close()
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):
                found = None
            if not isinstance(found, dict):
                raise ServerError(
                    f"{path} answers with no JSON: is {self.name} an MLflow server, and not a page that signs in?"
                )
            return found
        raise AssertionError("not reached")

    def _send(
        self, method: str, path: str, parameters: Mapping[str, Any] | None, body: Mapping[str, Any] | None
    ) -> requests.Response:
        """Return an answer of 200 whose body isn't read yet."""
        for attempt in range(TRIES):
            try:
                answer = self._session().request(
                    method, self.name + path, params=parameters, json=body, stream=True, timeout=TIMEOUTS_S,
                    allow_redirects=False, verify=self._verify,
                )  # fmt: skip
            except requests.exceptions.SSLError as error:
                raise ServerError(f"{self.name} has no certificate that is trusted here: {plain(error)}") from None
            except requests.RequestException as error:
                if attempt == TRIES - 1:
                    raise ServerError(f"{self.name} doesn't answer: {plain(error)}") from None
                wait(attempt)
                continue
            if answer.status_code == 200:
                return answer
            with answer:
                if answer.status_code not in RETRIED or attempt == TRIES - 1:
                    raise self._refusal(answer, path)
                asked = answer.headers.get("Retry-After", "")
            if asked.isascii() and asked.isdigit():
                time.sleep(min(LONGEST_WAIT_S, float(asked)))
            else:
                wait(attempt)
        raise AssertionError("not reached")

    def _refusal(self, answer: requests.Response, path: str) -> ServerError:
        """Say what an answer means that isn't 200."""
        status = answer.status_code
        if 300 <= status < 400:
            to = urlsplit(answer.headers.get("Location", ""))
            where = plain(f"{to.scheme}://{to.hostname}" if to.hostname else to.path)
            return ServerError(f"{path} is redirected to {where}, where no credential goes", status)
        try:
            document = json.loads(_bounded(answer, path, 65536))
            message, code = str(document["message"]), document["error_code"]
        except (requests.RequestException, ServerError, ValueError, TypeError, KeyError):
            message, code = answer.reason or "", None
        no_route = status in {405, 501} or (status == 404 and code in {None, "ENDPOINT_NOT_FOUND"})
        return ServerError(f"{path} answers {status}: {plain(message)}", status, no_route)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._threads, "session", None)
        if session is None:
            session = self._threads.session = requests.Session()
            # Also where there is no credential: requests would look for one in ~/.netrc.
            session.auth = self._auth or (lambda request: request)
            session.headers["User-Agent"] = "gatehouse-import"
        return session


def _credential(environment: Mapping[str, str]) -> Auth | None:
    """Return what puts the credential on a request, as MLflow's own client reads it."""
    user, password = environment.get("MLFLOW_TRACKING_USERNAME"), environment.get("MLFLOW_TRACKING_PASSWORD")
    if bool(user) != bool(password):
        raise Unusable("MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD belong together: set both, or neither")
    if user and password:
        return HTTPBasicAuth(user.encode(), password.encode())
    if token := environment.get("MLFLOW_TRACKING_TOKEN", "").strip():

        def bearer(request: requests.PreparedRequest) -> requests.PreparedRequest:
            request.headers["Authorization"] = f"Bearer {token}"
            return request

        return bearer
    return None


def _bounded(answer: requests.Response, path: str, limit: int | None = None) -> bytes:
    limit = limit or MAX_ANSWER
    parts, size = [], 0
    for piece in answer.iter_content(PIECE):
        size += len(piece)
        if size > limit:
            raise ServerError(f"{path} answers with more than {limit} bytes", requests.codes.request_entity_too_large)
        parts.append(piece)
    return b"".join(parts)


def plain(text: object) -> str:
    """Return at most 300 characters that a terminal only prints."""
    return "".join(each if each.isprintable() else " " for each in str(text))[:300]
