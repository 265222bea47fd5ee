"""The three ways in, tried from a pod by `helm test`: the page of a browser, curl, and MLflow's SDK.

Usage: three_ways.py ADDRESS; TOKEN in the environment is an identity token of somebody who may write. Without it, what
strangers get is tried, and nothing else.
"""

import json
import os
import sys
import urllib.error
import urllib.request

ADDRESS = sys.argv[1]
TOKEN = os.environ.get("TOKEN", "")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follow no redirect: a login page isn't an answer."""

    def redirect_request(self, *_: object) -> None:
        return None


def get(path: str, **headers: str) -> tuple[int, str, bytes, str]:
    """Return the status, the content type and the body of an answer, and where it leads to."""
    request = urllib.request.Request(ADDRESS + path, headers=headers)  # noqa: S310 - an address of the chart
    try:
        answer = urllib.request.build_opener(_Stay).open(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers.get_content_type(), answer.read(), answer.headers.get("Location", "")


def check(what: str, holds: bool, found: object) -> None:
    """Say whether something holds; end if it doesn't."""
    print(("ok      " if holds else "FAILED  ") + what + ("" if holds else f": {found}"), flush=True)
    if not holds:
        sys.exit(1)


def strangers() -> None:
    """The page leads to the sign-in, and everything else says no."""
    found = get("/", Accept="text/html")
    check("a browser is sent to the sign-in", found[0] == 302 and found[3].startswith("http"), found)
    found = get("/api/2.0/mlflow/experiments/search?max_results=1")
    check("curl without a token gets 401 and JSON", found[:2] == (401, "application/json"), found)


def curl() -> None:
    """A token opens the API, and says who it is."""
    found = get("/gatehouse/whoami", Authorization=f"Bearer {TOKEN}")
    check("curl with a token is known", found[0] == 200, found)
    print(f"        as {json.loads(found[2]).get('email')}")


def sdk() -> None:
    """A run with a metric and an artifact, written, read back and deleted."""
    os.environ.update(
        MLFLOW_TRACKING_TOKEN=TOKEN, MLFLOW_ALLOW_HTTP_REDIRECTS="false", MLFLOW_HTTP_REQUEST_MAX_RETRIES="1"
    )
    import mlflow

    mlflow.set_tracking_uri(ADDRESS)
    mlflow.set_experiment("helm-test")
    with mlflow.start_run() as run:
        mlflow.log_metric("answer", 42)
        mlflow.log_text("kept", "note.txt")
    found = mlflow.get_run(run.info.run_id).data.metrics
    check("the SDK reads back its metric", found == {"answer": 42.0}, found)
    text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/note.txt")
    check("the SDK reads back its artifact", text == "kept", text)
    mlflow.delete_run(run.info.run_id)


strangers()
if TOKEN:
    curl()
    sdk()
else:
    print("curl and the SDK with a token weren't tried: tests.tokenFrom names none")
