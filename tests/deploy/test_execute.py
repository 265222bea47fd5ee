"""The order in which steps run, side by side, and what a failure stops. Steps are small real programs."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from deploy import execute
from deploy.cloud.errors import REDACTED
from deploy.cloud.gcloud import Gcloud, GcloudError, classify, permission_in
from deploy.cloud.google import Google
from deploy.config import load
from deploy.plan import Plan, Step
from deploy.resources.secrets import Vault


def run(folder: Path, *steps: Step, parallel: int = 6) -> tuple[execute.Outcome, str]:
    """Run steps and return how it went, with what was shown."""
    config = load("dev", {"DEPLOY_PROJECT": "demo-project"})
    gcloud = Gcloud({"PATH": "/usr/bin:/bin", "FOLDER": str(folder)}, folder, patience=0)
    google = Google({}, gcloud.access_token, gcloud.redactor)
    executor = execute.Executor(gcloud, google, Vault(config, google), lambda _: None)
    out = io.StringIO()
    plan = Plan(config, "1", "image", "https://x", list(steps))
    outcome = execute.run(plan, executor, Console(file=out, width=200), parallel)
    return outcome, out.getvalue()


def step(key: str, code: str, *needs: str) -> Step:
    """Return a step that runs Python code."""
    return Step(
        key,
        "run",
        f"step {key}",
        (sys.executable, "-c", f"import os, pathlib; folder = pathlib.Path(os.environ['FOLDER'])\n{code}"),
        needs=needs,
    )


MEET = (
    "import time\n(folder / '{me}').touch()\nend = time.time() + 20\nwhile not (folder / '{other}').exists(): assert "
    "time.time() < end; time.sleep(0.01)"
)


def test_steps_that_do_not_wait_for_each_other_run_side_by_side(tmp_path: Path) -> None:
    """Each waits until the other has begun."""
    outcome, _ = run(tmp_path, step("a", MEET.format(me="a", other="b")), step("b", MEET.format(me="b", other="a")))
    assert outcome.good
    assert sorted(outcome.done) == ["a", "b"]


def test_a_step_waits_for_what_it_needs(tmp_path: Path) -> None:
    outcome, _ = run(
        tmp_path, step("late", "assert (folder / 'x').exists()", "early"), step("early", "(folder / 'x').touch()")
    )
    assert outcome.done == ["early", "late"]


def test_a_failure_stops_what_has_not_begun(tmp_path: Path) -> None:
    outcome, shown = run(tmp_path, step("a", "raise SystemExit(3)"), step("b", "(folder / 'x').touch()", "a"))
    assert list(outcome.failed) == ["a"]
    assert not (tmp_path / "x").exists()
    assert "✗ step a" in shown


def test_a_plan_that_cannot_end_is_a_mistake_and_no_success(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="wait for none that there is"):
        run(tmp_path, step("a", "", "nothing"))


def test_without_smoke_tests_the_rest_still_runs() -> None:
    config = load("dev", {"DEPLOY_PROJECT": "demo-project"})
    plan = Plan(
        config,
        "1",
        "image",
        "https://x",
        [Step("s", "run", "smoke", url="https://x"), Step("t", "run", "t", needs=("s",))],
    )
    plan.leave_out_smoke_tests()
    assert [(s.key, s.needs) for s in plan.steps] == [("t", ())]


def test_no_error_repeats_a_secret(tmp_path: Path) -> None:
    gcloud = Gcloud({"PATH": "/usr/bin:/bin"}, tmp_path)
    gcloud.redactor.know("hunter2hunter2")
    with pytest.raises(GcloudError) as caught:
        gcloud.run((sys.executable, "-c", "import sys; sys.exit('ERROR: bad: ' + sys.stdin.read())"), "hunter2hunter2")
    assert REDACTED in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ERROR: (gcloud.secrets.create) NOT_FOUND: Secret [projects/1/secrets/x] not found.", "missing"),
        ("ERROR: (gcloud.run.services.describe) Cannot find service [mlflow-dev]", "missing"),
        ("ERROR: (gcloud.storage.buckets.describe) gs://x not found: 404.", "missing"),
        (
            "ERROR: PERMISSION_DENIED: Permission 'run.services.create' denied on resource 'x' (or it may not exist).",
            "denied",
        ),
        (
            "ERROR: (gcloud.sql.instances.create) HTTPError 403: The client is not authorized to make this request.",
            "denied",
        ),
        (
            "ERROR: PERMISSION_DENIED: Cloud Run API has not been used in project 404 before or it is disabled.",
            "disabled",
        ),
        ("ERROR: INVALID_ARGUMENT: Service account x@y.iam.gserviceaccount.com does not exist.", "later"),
        ("ERROR: ABORTED: There were concurrent policy changes.", "later"),
        ("ERROR: HTTPError 409: Operation failed because another operation was already in progress.", "later"),
        ("ERROR: ALREADY_EXISTS: Resource 'mlflow-dev' already exists.", "exists"),
        ("ERROR: INVALID_ARGUMENT: max-instances", "other"),
        ("ERROR: gcloud crashed (OperationalError): database is locked", "later"),
        ("ERROR: HTTPError 503: Service unavailable", "later"),
    ],
)
def test_errors_are_told_apart(text: str, kind: str) -> None:
    assert classify(text) == kind


def test_a_gcloud_gets_the_token_and_need_not_open_the_credential_database(tmp_path: Path) -> None:
    """Several at a time would lock it. The file is this user's alone, and no argument holds the token."""
    program = tmp_path / "gcloud"
    program.write_text(
        '#!/bin/sh\nstat -c %a "$CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"\ncat "$CLOUDSDK_AUTH_ACCESS_TOKEN_FILE"\n'
    )
    program.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    told = Gcloud(environ, tmp_path, token=lambda: "ya29.x").run(("gcloud", "run", "services", "list"))
    assert told == "600\nya29.x"


@pytest.mark.parametrize(
    ("text", "permission"),
    [
        ("Permission 'run.services.create' denied on resource 'x' (or it may not exist).", "run.services.create"),
        ("Permission iam.serviceaccounts.actAs denied on service account", "iam.serviceAccounts.actAs"),
        ("The user ci@demo-project.iam.gserviceaccount.com is forbidden from accessing the bucket", ""),
        ("ERROR: (gcloud.iam.service-accounts.create) PERMISSION_DENIED", ""),
        ("mlflow-dev.europe-west1.run.app and storage.googleapis.com are no permissions", ""),
    ],
)
def test_no_piece_of_an_address_is_read_as_a_permission(text: str, permission: str) -> None:
    assert permission_in(text) == permission
