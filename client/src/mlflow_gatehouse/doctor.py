"""``mlflow-gatehouse doctor``: from the settings to a run written and deleted, link by link.

Needs no MLflow: it speaks to the server as the plug-in does, so what works here works there.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import requests

from mlflow_gatehouse import __version__
from mlflow_gatehouse.auth import GatehouseAuth
from mlflow_gatehouse.commands import chosen_origin, parser, run
from mlflow_gatehouse.commands.whoami import seen_as
from mlflow_gatehouse.errors import ClientError, ConfigurationError, Intercepted, Refused, Unreachable
from mlflow_gatehouse.keeper import keeper_of
from mlflow_gatehouse.refusals import SKEW, skew_of
from mlflow_gatehouse.server import TIMEOUT, WELL_KNOWN, Server, discover, require_verified_tls

OLDEST_MLFLOW = (2, 9)
CONTENT = b"gatehouse doctor\n"


def main(argv: list[str]) -> int:
    """Check each link in turn; stop at the first that is broken, with its exit code."""
    options = parser("doctor", "Check the way from this machine to the tracking server.")
    options.add_argument("--experiment", default="0", help="id of the experiment for the trial run (default 0)")
    arguments = options.parse_args(argv)

    def action() -> int:
        origin = _check("settings", lambda: _settings(arguments.server))
        _check("plug-in", _plug_in)
        _check("server", lambda: _reached(origin))
        _check("clock", lambda: _clock(origin))
        _check("token", lambda: _token(origin))
        _check("identity", lambda: seen_as(origin))
        for step, result in Trial(origin, arguments.experiment).steps():
            print(f"ok    {step:<9} {result}", flush=True)
        return 0

    return run("doctor", action)


def _check(link: str, check: Callable[[], str]) -> str:
    try:
        result = check()
    except ClientError:
        print(f"FAIL  {link}", flush=True)
        raise
    print(f"ok    {link:<9} {result}", flush=True)
    return result


def _settings(server: str | None) -> str:
    origin = chosen_origin(server)
    require_verified_tls()
    return origin


def _plug_in() -> str:
    """MLflow's version and whether it would use this plug-in; fine without MLflow, as for curl."""
    version = None
    for name in ("mlflow", "mlflow-skinny"):
        try:
            version = importlib.metadata.version(name)
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    if version is None:
        return "MLflow isn't installed here"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_MLFLOW:
        raise ConfigurationError(f"MLflow {version} is too old", "pip install 'mlflow>=2.9'")
    if os.environ.get("MLFLOW_TRACKING_AUTH") != "gatehouse":
        raise ConfigurationError(
            f"MLflow {version} is installed and wouldn't use this plug-in",
            "export MLFLOW_TRACKING_AUTH=gatehouse",
        )
    return f"MLflow {version}, MLFLOW_TRACKING_AUTH=gatehouse"


def _reached(origin: str) -> str:
    server = discover(origin)
    if not server.about:
        return f"{origin} answers, and doesn't describe itself as a Gatehouse"
    return f"a Gatehouse, of the provider {server.issuer}{_other_version(server)}"


def _other_version(server: Server) -> str:
    """What to run where the server hands out another client than this one.

    The command is ours: a server's word isn't one to run.
    """
    client = server.about.get("client")
    version = client.get("version") if isinstance(client, dict) else None
    if not isinstance(version, str) or not re.fullmatch(r"[0-9][0-9A-Za-z.+]{0,40}", version) or version == __version__:
        return ""
    return (
        f"; it hands out the client {version}, this is {__version__}: pip install -r "
        f"{server.origin}{WELL_KNOWN}/requirements.txt"
    )


def _clock(origin: str) -> str:
    with _reporting(origin), requests.Session() as session:
        session.auth = lambda request: request  # no token, and nothing from ~/.netrc
        answer = session.get(origin + WELL_KNOWN, timeout=TIMEOUT, allow_redirects=False)
    skew = skew_of(answer)
    if skew is not None and abs(skew) > SKEW:
        raise Intercepted(
            f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the server's",
            "set the clock: timedatectl set-ntp true",
        )
    return "the server doesn't give its time" if skew is None else f"{abs(skew):.0f} s apart"


def _token(origin: str) -> str:
    token = keeper_of(origin).current()
    left = "" if token.ends_at == float("inf") else f", ends in {(token.ends_at - time.time()) / 60:.0f} min"
    return f"{token.email or 'opaque'}, from {token.source}{left}"


@contextmanager
def _reporting(origin: str) -> Iterator[None]:
    try:
        yield
    except requests.RequestException as error:
        raise Unreachable(f"no answer from {origin}: {error}", "check the network and HTTPS_PROXY") from None


class Trial:
    """A run that is made, written to, read, and deleted."""

    def __init__(self, origin: str, experiment: str) -> None:
        self._origin = origin
        self._experiment = experiment
        self._session = requests.Session()
        self._session.auth = GatehouseAuth(frozenset({origin}))

    def steps(self) -> Iterator[tuple[str, str]]:
        """Do one step after another; the run is deleted even if one fails."""
        run_info = self._made()
        run_id = run_info["run_id"]
        try:
            yield "run", f"{run_id} made in experiment {self._experiment}"
            yield "metric", self._metric(run_id)
            yield "artifact", self._artifact(run_info["artifact_uri"])
        finally:
            self._call("POST", "/api/2.0/mlflow/runs/delete", json={"run_id": run_id})
        yield "deleted", run_id

    def _call(self, method: str, path: str, **options: Any) -> requests.Response:
        with _reporting(self._origin):
            answer = self._session.request(method, self._origin + path, timeout=TIMEOUT, **options)
        if answer.status_code == 403:
            raise Refused(
                f"you may read, and not write this: {_message(answer)}",
                "ask for the editor's role, or name an experiment that is yours: --experiment ID",
            )
        if answer.status_code >= 400:
            raise Refused(
                f"{method} {path}: HTTP {answer.status_code}: {_message(answer)}",
                "see the server's log, or at the server: gatehouse doctor",
            )
        return answer

    def _made(self) -> dict[str, str]:
        body = {
            "experiment_id": self._experiment,
            "start_time": int(time.time() * 1000),
            "run_name": "mlflow-gatehouse doctor",
            "tags": [{"key": "gatehouse.doctor", "value": "true"}],
        }
        made = self._call("POST", "/api/2.0/mlflow/runs/create", json=body).json()
        info: dict[str, str] = made["run"]["info"]
        return info

    def _metric(self, run_id: str) -> str:
        value = secrets.randbelow(1_000_000) / 1000
        body = {"run_id": run_id, "key": "doctor", "value": value, "timestamp": int(time.time() * 1000)}
        self._call("POST", "/api/2.0/mlflow/runs/log-metric", json=body)
        read = self._call("GET", "/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()
        metrics = {metric["key"]: metric["value"] for metric in read["run"]["data"].get("metrics", [])}
        if metrics.get("doctor") != value:
            raise Intercepted(
                f"the metric {value} was written and reads {metrics.get('doctor')}", "see the server's log"
            )
        return f"written and read: {value}"

    def _artifact(self, artifact_uri: str) -> str:
        root = "mlflow-artifacts:/"
        if not artifact_uri.startswith(root):
            return f"not tried: clients write to {artifact_uri.partition(':')[0]} with rights of their own"
        place = artifact_uri.removeprefix(root).lstrip("/")
        path = f"/api/2.0/mlflow-artifacts/artifacts/{place}/doctor.txt"
        self._call("PUT", path, data=CONTENT, headers={"Content-Type": "text/plain"})
        read = self._call("GET", path).content
        if read != CONTENT:
            raise Intercepted(
                f"an artifact of {len(CONTENT)} bytes came back as {len(read)} others", "see the server's log"
            )
        try:
            self._call("DELETE", path)
        except Refused:
            # What can't be undone is an administrator's; an editor lacks nothing for training.
            return f"{len(CONTENT)} bytes written and read; they stay, for deleting them is an administrator's"
        return f"{len(CONTENT)} bytes written, read and deleted"


def _message(answer: requests.Response) -> str:
    """The server's own words."""
    try:
        body = answer.json()
        message = body.get("message") or body.get("error_code") or answer.reason
    except (ValueError, AttributeError):
        message = answer.text
    return " ".join(str(message).split())[:300]
