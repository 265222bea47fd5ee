"""An image is built once, from a commit, by an account that may do nothing else, and carried on by its digest."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from deploy.resources.images import INPUTS, docker_build
from tests.deploy.conftest import PROJECT, ROOT, Tool, image, tool_for
from tests.deploy.emulator import Emulator
from tests.deploy.test_release import served_image

BUILDER = f"mlflow-dev-build@{PROJECT}.iam.gserviceaccount.com"
BUCKET = f"{PROJECT}-mlflow-dev-build"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clean checkout of the tool and the image's sources, with secrets lying beside them."""
    top = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "src-*.tar.gz")
    for name in ("deploy", *INPUTS):
        source = ROOT / name
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, top / name, ignore=ignore)
        else:
            shutil.copy2(source, top / name)
    shutil.copy2(ROOT / ".gitignore", top / ".gitignore")
    git(top, "init", "--quiet")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=all")
    for name in ("client_secret_1.json", ".env", "gha-creds-1.json"):
        (top / name).write_text("hunter2")
    return top


@pytest.fixture
def builder(tool: Tool, checkout: Path) -> Tool:
    tool.sources = checkout
    tool.configure(image="cloudbuild")
    return tool


def apply(tool: Tool) -> tuple[str, ...]:
    return ("apply", "--yes", "--no-smoke", "--oauth-client", str(tool.client_file()))


def test_an_image_is_built_from_the_commit_in_the_region_by_its_own_account(builder: Tool, checkout: Path) -> None:
    cloud = builder.cloud
    builder.good(*apply(builder))
    (build,) = cloud.builds.all
    assert build["images"][0].startswith("europe-west1-docker.pkg.dev/demo-project/mlflow-dev/gatehouse:src-")
    assert build["name"].startswith("projects/123456789012/locations/europe-west1/")
    assert build["serviceAccount"].endswith(BUILDER)
    assert cloud.storage.buckets[BUCKET].meta["location"] == "EUROPE-WEST1"
    assert not [name for name in cloud.storage.buckets if name.endswith("_cloudbuild")]
    # What was uploaded is the commit's files, and no other.
    (source,) = [data for name, data in cloud.storage.buckets[BUCKET].objects.items() if name.startswith("source/")]
    with tarfile.open(fileobj=io.BytesIO(source)) as archive:
        uploaded = {member.name for member in archive if member.isfile()}
    assert uploaded == set(git(checkout, "ls-files", "--", *INPUTS).split())
    # The same commit is built once; its neighbours, the account's rights, are the least.
    builder.good(*apply(builder))
    assert len(cloud.builds.all) == 1
    assert [b["role"] for b in cloud.project.policy.bindings if BUILDER in str(b)] == []


def test_what_is_not_committed_is_refused_and_not_silently_left_out(builder: Tool, checkout: Path) -> None:
    (checkout / "src" / "gatehouse" / "new.py").write_text("x = 1\n")
    with (checkout / "start.sh").open("a") as file:
        file.write("# changed\n")
    for command in (("plan",), apply(builder)):
        result = builder.run(*command)
        assert result.code == 1
        assert "not committed: " in result.err
        assert "src/gatehouse/new.py" in result.err
        assert "start.sh" in result.err
    assert builder.cloud.writes == []
    git(checkout, "add", "--all", "--", "src", "start.sh")
    git(checkout, "commit", "--quiet", "--message=more")
    builder.good("plan")
    (checkout / "docs").mkdir()  # what the image is not made of may lie about
    (checkout / "docs" / "notes.md").write_text("x")
    builder.good("plan")


def test_a_failed_builds_log_is_shown_and_the_next_run_goes_on(builder: Tool) -> None:
    builder.cloud.builds.fail = True
    result = builder.run(*apply(builder))
    assert result.code == 1
    assert "✗ image europe-west1-docker.pkg.dev/demo-project/mlflow-dev/gatehouse:src-" in result.out
    assert "ERROR: The command '/bin/sh -c false' returned a non-zero code: 1" in result.out
    assert "The whole log: https://console.cloud.google.com/cloud-build/builds/" in result.out
    assert not builder.cloud.run.services
    builder.cloud.builds.fail = False
    builder.good(*apply(builder))
    assert builder.cloud.run.services


def test_docker_builds_for_cloud_runs_machines() -> None:
    assert "--platform=linux/amd64" in docker_build("x:1")


# Promotion
# ------------------------------------------------------------------------------------------------------------------------


def in_prod(cloud: Emulator, home: Path, gcloud: Path, **changes: str) -> Tool:
    """The tool on a second environment of the same project."""
    prod = tool_for(cloud, home, gcloud)
    prod.file = home / "prod.yaml"
    prod.configure(namespace="prod", **changes)
    return prod


def test_what_was_tested_is_promoted_by_its_digest(deployed: Tool, tmp_path: Path) -> None:
    cloud = deployed.cloud
    prod = in_prod(cloud, tmp_path / "prod", deployed.gcloud, image="promoted")
    # The first release of prod needs the OAuth client: a person is asked for it.
    client = str(prod.client_file())
    first = deployed.run("promote", str(prod.file), "--no-smoke", answers=f"{client}\ny\n")
    assert first.code == 0, first.text
    (revision,) = [r for name, r in cloud.run.revisions.items() if name.startswith("mlflow-prod")]
    promoted = revision["spec"]["containers"][0]["image"]
    digest = cloud.registry.repositories["europe-west1/shared"].tags["gatehouse:1"]
    assert promoted == f"{image('1').rsplit(':', 1)[0]}@{digest}"
    # A second one is a release, with all that belongs to it; and apply keeps what serves.
    deployed.configure(image=image("2"))
    deployed.good("apply", "--yes", "--no-smoke")
    second = deployed.good("promote", str(prod.file), "--yes", "--no-smoke")
    assert f"@{digest} → " in second.out
    assert "backup of the database" in second.out
    prod.good("apply", "--yes", "--no-smoke")
    cloud.requests.clear()
    assert "Nothing to do" in prod.good("apply", "--yes", "--no-smoke").out
    assert cloud.writes == []
    assert served_image(deployed) == image("2")  # dev, the neighbour, as before


def test_an_environment_that_builds_for_itself_is_not_promoted_to(deployed: Tool, tmp_path: Path) -> None:
    prod = in_prod(deployed.cloud, tmp_path / "prod", deployed.gcloud)
    result = deployed.here("promote", str(prod.file), "--yes")
    assert result.code == 1
    assert "set `image: promoted` in its file" in result.err
    assert deployed.cloud.writes == []


def test_old_releases_backups_go_and_others_stay(deployed: Tool) -> None:
    deployed.good("backup")  # a person's
    backups = deployed.cloud.sql.instances["mlflow-dev"].backups
    for number in range(4):
        deployed.configure(image=image("2" if number % 2 == 0 else "1"), sql={"release_backups": 2})
        deployed.here_good("apply", "--yes", "--no-smoke")
    backups = deployed.cloud.sql.instances["mlflow-dev"].backups
    assert sorted(backup["description"] for backup in backups) == ["asked for", "before 1", "before 2"]
    assert {backup["location"] for backup in backups} == {"europe-west1"}


def test_destroy_takes_the_data_before_the_keys_that_open_it(deployed: Tool) -> None:
    cloud = deployed.cloud
    cloud.denied.add("cloudsql.instances.delete")
    assert deployed.run("destroy", "--data", "--confirm", "dev").code == 77
    assert {"mlflow-dev-database-url", "mlflow-dev-kek-passphrase", "mlflow-dev-webhook-key"} <= set(cloud.secrets.all)
    cloud.denied.clear()
    deployed.good("destroy", "--data", "--confirm", "dev")
    assert not cloud.secrets.all
