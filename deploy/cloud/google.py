"""Reads, and waits for long operations, by Google's REST APIs:

one connection a thread, typed errors, retries by status.

Speaks with the credentials that gcloud would use: a token in `CLOUDSDK_AUTH_ACCESS_TOKEN_FILE`, the credentials' file
that a workflow's federation names in `CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE`, or else gcloud's active account, asked
once (`gcloud config config-helper`).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from deploy.cloud import record
from deploy.cloud.errors import CloudError, Kind, Redactor
from deploy.cloud.record import shape

if TYPE_CHECKING:
    import requests

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
#: Calls at a time. More help little: each look is a few round trips deep.
PARALLEL = 12
#: Statuses that pass by themselves (AIP-194, and what the APIs' own clients retry).
PASSING = {408, 429, 500, 502, 503, 504}
CALL_S = 60  # for one answer
LIFE_S = 3000  # a token whose end is not known is asked for anew after this

#: Returns (access token, its end in UTC) of gcloud's active account.
Ask = Callable[[], tuple[str, datetime]]


def credentials(environ: Mapping[str, str], ask: Ask) -> Any:
    """Return google-auth credentials for who runs the tool. Raises CloudError where there are none."""
    import google.auth
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2.credentials import Credentials

    if path := environ.get("CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE", ""):
        try:
            found, _ = google.auth.load_credentials_from_file(path, scopes=[SCOPE])
        except GoogleAuthError as error:
            fix = (
                "Who may act as a deployer is said by `bootstrap`: a job of the repository in that environment of "
                "GitHub."
            )
            raise CloudError("credentials", "denied", f"{path}: {error}", fix) from None
        return found

    def renew(request: object, scopes: object) -> tuple[str, datetime]:
        del request, scopes
        if path := environ.get("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", ""):
            end = datetime.now(timezone.utc) + timedelta(seconds=LIFE_S)
            token, end = Path(path).read_text(encoding="utf-8").strip(), end
        else:
            token, end = ask()
        return token, end.replace(tzinfo=None)  # google-auth compares naive times, in UTC

    return Credentials(token=None, refresh_handler=renew, scopes=[SCOPE])


class Google:
    """Google's REST APIs for one project.

    Args:
        environ: where proxies, certificates and credentials are looked up.
        ask: gives a token of gcloud's active account.
        redactor: learns each token.
        patience: seconds for which a call is tried again while what stops it passes by itself.
        quota_project: the project whose quota the calls use, when it is another than the called one.
    """

    def __init__(
        self, environ: Mapping[str, str], ask: Ask, redactor: Redactor, patience: float = 150, quota_project: str = ""
    ) -> None:
        self.environ, self.patience, self.redactor = environ, patience, redactor
        self._ask, self._quota = ask, quota_project
        self._credentials: Any = None
        self._lock, self._mine = threading.Lock(), threading.local()

    def token(self) -> str:
        """Return an access token that lives for a while yet; renewed when it is near its end."""
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        with self._lock:
            if self._credentials is None:
                self._credentials = credentials(self.environ, self._ask)
            if not self._credentials.valid:
                try:
                    self._credentials.refresh(Request())
                except GoogleAuthError as error:
                    raise CloudError(
                        "credentials", "denied", f"no access token: {error}", "gcloud auth login"
                    ) from None
            return self.redactor.know(str(self._credentials.token))

    def _session(self) -> requests.Session:
        """Return this thread's connections: a session of requests is not made for several."""
        import requests

        if not hasattr(self._mine, "session"):
            self._mine.session = requests.Session()
            if self._quota:
                self._mine.session.headers["X-Goog-User-Project"] = self._quota
        return cast("requests.Session", self._mine.session)

    def call(self, method: str, url: str, body: Any = None, **parameters: str | list[str]) -> Any:
        """Call a method and return its answer's JSON. Tries again what passes by itself. Raises CloudError."""
        return json.loads(self.raw(method, url, body, **parameters) or b"{}")

    def raw(self, method: str, url: str, body: Any = None, **parameters: str | list[str]) -> bytes:
        """Call a method and return its answer as it came. Raises CloudError."""
        import requests

        deadline, pause = time.monotonic() + self.patience, 0.5
        while True:
            headers = {"Authorization": f"Bearer {self.token()}"}
            try:
                answer = self._session().request(
                    method, url, params=parameters, json=body, headers=headers, timeout=CALL_S, allow_redirects=False
                )
            except requests.RequestException as error:
                failure = CloudError(
                    f"{method} {url}", "later", f"{url}: {self.redactor.clean(str(error))}", "Is there a network?"
                )
            else:
                told = {
                    "call": method,
                    "url": url,
                    "parameters": parameters,
                    "body": shape(body),
                    "status": answer.status_code,
                }
                record.write(self.environ, self.redactor, told | {"answer": record.answered(answer.content)})
                if answer.status_code < 300:
                    return answer.content
                failure = self._error(method, url, answer.status_code, answer.content)
            reading = method == "GET" or url.rsplit(":", 1)[-1] in {"getIamPolicy", "testIamPermissions"}
            if failure.kind != "later" or not reading or time.monotonic() + pause > deadline:
                raise failure
            time.sleep(pause)
            pause = min(pause * 2, 10)

    def _error(self, method: str, url: str, status: int, content: bytes) -> CloudError:
        """Return the error of an answer: its kind follows from the status and the typed details, not from the words."""
        try:
            told = json.loads(content)["error"]
        except (ValueError, KeyError, TypeError):
            told = {}
        if isinstance(told, str):  # OAuth's own form
            told = {"status": told, "message": told}
        code, message = told.get("status", ""), told.get("message", "") or content[:300].decode("utf-8", "replace")
        details = [item for item in told.get("details", []) if isinstance(item, dict)]
        reasons = {item.get("reason", "") for item in details}
        permission = next((i["metadata"]["permission"] for i in details if "permission" in i.get("metadata", {})), "")
        kind: Kind = "other"
        if reasons & {"SERVICE_DISABLED"}:
            kind = "disabled"
        elif status in PASSING or code == "ABORTED":
            kind = "later"
        elif status == 404:
            kind = "missing"
        elif status in {401, 403}:
            kind = "denied"
        elif status == 409:
            kind = "exists"
        return CloudError(f"{method} {url}", kind, self.redactor.clean(message), "", permission)

    def get(self, url: str, **parameters: str | list[str]) -> Any:
        """Return what a URL describes. Raises CloudError."""
        return self.call("GET", url, **parameters)

    def find(self, url: str, **parameters: str | list[str]) -> Any:
        """Return what a URL describes; None if it does not exist. Raises CloudError."""
        try:
            return self.get(url, **parameters)
        except CloudError as error:
            if error.kind == "missing":
                return None
            raise

    def pages(self, url: str, key: str, **parameters: str | list[str]) -> Iterator[dict[str, Any]]:
        """Yield the items of every page of a list, under `key` in each answer. Raises CloudError."""
        token = ""
        while True:
            answer = self.get(url, **parameters, **({"pageToken": token} if token else {}))
            yield from answer.get(key, [])
            token = answer.get("nextPageToken", "")
            if not token:
                return

    def policy(self, url: str) -> dict[str, Any]:
        """Return the IAM policy of a resource, conditions included. Raises CloudError."""
        options = {"options": {"requestedPolicyVersion": 3}}
        answer: dict[str, Any] = self.call("POST", f"{url}:getIamPolicy", options)
        return answer

    def lacking(self, project: str, permissions: list[str]) -> list[str]:
        """Return those of the permissions that the caller has not got on the whole project; anybody may ask.

        Raises CloudError.
        """
        url, held = f"https://cloudresourcemanager.googleapis.com/v1/projects/{project}:testIamPermissions", set()
        for start in range(0, len(permissions), 100):
            answer = self.call("POST", url, {"permissions": permissions[start : start + 100]})
            held |= set(answer.get("permissions", []))
        return [permission for permission in permissions if permission not in held]


def side_by_side(tasks: list[Callable[[], Any]]) -> list[Any]:
    """Run the tasks side by side and return their results; the first error is raised once all have ended."""
    if not tasks:
        return []
    with ThreadPoolExecutor(min(PARALLEL, len(tasks))) as pool:
        futures = [pool.submit(task) for task in tasks]
    return [future.result() for future in futures]
