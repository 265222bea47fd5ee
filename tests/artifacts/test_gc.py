"""`gatehouse gc`: what was deleted long ago goes for good, with its artifacts; nothing else ever does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gatehouse.artifacts.stores.local import UPLOADS
from gatehouse.commands import gc
from gatehouse.exit_codes import Exit
from tests.support import Gate, Postgres, Provider, running

DATABASE = "garbage"
MONTH_MS = 31 * 24 * 3600 * 1000
CONTENT = b"x" * 1000


class Server:
    """A gate on PostgreSQL and a local folder, by its REST API."""

    def __init__(self, gate: Gate, postgres: Postgres) -> None:
        self.gate = gate
        self.postgres = postgres
        self.session = gate.session()
        self.artifacts = gate.folder / "artifacts"

    def post(self, path: str, **message: Any) -> Any:
        answer = self.session.post(f"{self.gate.url}/api/2.0/mlflow/{path}", json=message, timeout=30)
        assert answer.ok, answer.text
        return answer.json()

    def experiment(self, name: str, location: str = "") -> str:
        more = {"artifact_location": location} if location else {}
        return str(self.post("experiments/create", name=name, **more)["experiment_id"])

    def put(self, path: str, data: bytes = CONTENT) -> None:
        """Store an artifact."""
        url = f"{self.gate.url}/api/2.0/mlflow-artifacts/artifacts/{path}"
        self.session.put(url, data=data, timeout=30).raise_for_status()

    def run(self, experiment: str, artifact: bool = True, deleted: bool = True, old: bool = True) -> str:
        """Make a run with an artifact in a folder; delete it, a month ago."""
        run = str(self.post("runs/create", experiment_id=experiment)["run"]["info"]["run_id"])
        if artifact:
            self.put(f"{experiment}/{run}/artifacts/model/weights.bin")
        if deleted:
            self.post("runs/delete", run_id=run)
        if old:
            self.sql(f"UPDATE runs SET deleted_time = deleted_time - {MONTH_MS} WHERE run_uuid = '{run}'")
        return run

    def model(self, experiment: str, deleted: bool = True) -> str:
        """Make a logged model with an artifact; delete it, a month ago."""
        made = self.post("logged-models", experiment_id=experiment, name="model")
        model = str(made["model"]["info"]["model_id"])
        self.put(f"{experiment}/models/{model}/artifacts/weights.bin")
        if deleted:
            url = f"{self.gate.url}/api/2.0/mlflow/logged-models/{model}"
            self.session.delete(url, timeout=30).raise_for_status()
        change = f"last_updated_timestamp_ms = last_updated_timestamp_ms - {MONTH_MS}"
        self.sql(f"UPDATE logged_models SET {change} WHERE model_id = '{model}'")
        return model

    def sql(self, statement: str) -> str:
        return self.postgres.sql(statement, DATABASE)

    def has(self, table: str, identifier: str) -> bool:
        """Return whether a row is there."""
        column = {"runs": "run_uuid", "logged_models": "model_id", "experiments": "experiment_id"}[table]
        return self.sql(f"SELECT count(*) FROM {table} WHERE {column} = '{identifier}'") == "1"

    def files(self, folder: str) -> list[str]:
        """Return the artifacts below a folder of the store."""
        root = self.artifacts / folder
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def server(provider: Provider, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    gate = Gate(tmp_path_factory.mktemp("gc"), provider, BACKEND_STORE_URI=postgres.create(DATABASE))
    with running(gate):
        yield Server(gate, postgres)


@pytest.fixture
def collect(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in the gate's environment; return its exit code and {identifier or folder: outcome}."""
    for name, value in server.gate.environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        code = gc.main([*arguments, "--json"])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return code, {line["id"] or line["folder"]: line for line in lines}

    return run


def test_without_delete_it_only_says_what_would_go_and_how_much_it_is(server: Server, collect: Any) -> None:
    experiment = server.experiment("listed")
    run, model = server.run(experiment), server.model(experiment)
    code, found = collect()
    assert code == Exit.OK
    assert (found[run]["result"], found[run]["bytes"]) == ("would be deleted", len(CONTENT))
    assert (found[model]["result"], found[model]["folder"]) == ("would be deleted", f"{experiment}/models/{model}")
    assert server.has("runs", run)
    assert len(server.files(experiment)) == 2


def test_old_deleted_runs_and_models_go_with_their_artifacts_and_the_others_stay(server: Server, collect: Any) -> None:
    experiment = server.experiment("mixed")
    old, model = server.run(experiment), server.model(experiment)
    young = server.run(experiment, old=False)
    alive = server.run(experiment, deleted=False)
    kept_model = server.model(experiment, deleted=False)
    code, found = collect("--delete", "--older-than", "30d")
    assert code == Exit.OK
    assert {found[old]["result"], found[model]["result"]} == {"deleted"}
    assert not {young, alive, kept_model} & found.keys()
    assert [server.has("runs", run) for run in (old, young, alive)] == [False, True, True]
    assert [server.has("logged_models", each) for each in (model, kept_model)] == [False, True]
    left = [f"{run}/artifacts/model/weights.bin" for run in (young, alive)]
    assert server.files(experiment) == sorted([*left, f"models/{kept_model}/artifacts/weights.bin"])
    assert collect("--delete", "--older-than", "30d")[1] == {}


def test_a_run_whose_artifacts_went_before_it_was_killed_is_finished_by_the_next_time(
    server: Server, collect: Any
) -> None:
    run = server.run(server.experiment("interrupted"), artifact=False)
    assert collect("--delete")[1][run]["result"] == "deleted"
    assert not server.has("runs", run)


def test_no_address_of_a_deleted_run_leads_to_somebody_elses_artifacts(server: Server, collect: Any) -> None:
    """Whoever makes an experiment chooses its address; and suppose that somebody could write to the database, too."""
    victims = server.experiment("victim")
    victim = server.run(victims, deleted=False)
    folder = f"{victims}/{victim}/artifacts"
    before = server.files("")
    chosen = ["?", "#", "/model?", "/../artifacts", "%2f..%2fartifacts", "/.", "//"]
    places = [*(f"mlflow-artifacts:/{folder}{end}" for end in chosen), "gs://somebodys-bucket/x"]
    experiments = [server.experiment(f"a{n}") for n in range(len(places))]
    for experiment, place in zip(experiments, places, strict=True):
        # As older servers took them from clients.
        server.sql(f"UPDATE experiments SET artifact_location = '{place}' WHERE experiment_id = {experiment}")
    runs = [server.run(experiment, artifact=False) for experiment in experiments]
    written = ["/", "", f"/{folder}", f"/{victims}", f"/{victims}/{{run}}/../{victim}/artifacts", f"/{victims}/{{run}}"]
    for address in [f"mlflow-artifacts:{path}" for path in [*written, f"//elsewhere.example/{folder}"]] + [
        "file:///",
        f"{server.artifacts}/{folder}",
    ]:
        runs.append(server.run(victims, artifact=False))
        uri = address.format(run=runs[-1])
        server.sql(f"UPDATE runs SET artifact_uri = '{uri}' WHERE run_uuid = '{runs[-1]}'")
    code, found = collect("--delete")
    assert code == Exit.OK
    assert server.files("") == before
    for run in runs:
        # The very spelling of an address may come to a folder of the run's own, in which there is nothing.
        outcome = found[run]
        assert outcome["result"] == "left alone" or outcome["folder"].endswith(f"/{run}"), outcome
    assert sum(found[run]["result"] == "left alone" for run in runs) >= len(runs) - 3


def test_a_folder_that_holds_another_experiment_stays(server: Server, collect: Any) -> None:
    outer = server.experiment("outer")
    run = server.run(outer)
    inner = server.experiment("inner", f"mlflow-artifacts:/{outer}/{run}/artifacts/inner")
    outcome = collect("--delete")[1][run]
    assert (outcome["result"], outcome["why"]) == ("left alone", f"experiment {inner} keeps its artifacts in there")
    assert server.files(f"{outer}/{run}")


def test_what_a_registered_version_is_made_of_stays(server: Server, collect: Any) -> None:
    experiment = server.experiment("registered")
    run, model = server.run(experiment), server.model(experiment)
    server.post("registered-models/create", name="churn")
    # As the client registers them; today's server would refuse a run that is deleted.
    for number, source in enumerate([f"mlflow-artifacts:/{experiment}/{run}/artifacts/model", f"models:/{model}"], 1):
        server.sql(
            "INSERT INTO model_versions (name, version, source, current_stage, workspace) "
            f"VALUES ('churn', {number}, '{source}', 'None', 'default')"
        )
    found = collect("--delete")[1]
    assert {found[each]["result"] for each in (run, model)} == {"left alone"}
    assert found[run]["why"] == "version 1 of the registered model churn is made of it"
    assert len(server.files(experiment)) == 2
    server.sql("UPDATE model_versions SET current_stage = 'Deleted_Internal'")
    found = collect("--delete")[1]
    assert {found[each]["result"] for each in (run, model)} == {"deleted"}


def test_a_deleted_experiment_goes_with_all_that_it_held(server: Server, collect: Any) -> None:
    experiment = server.experiment("whole")
    run, model = server.run(experiment, deleted=False, old=False), server.model(experiment, deleted=False)
    server.put(f"{experiment}/traces/tr-1/artifacts/traces.json")
    server.post("experiments/delete", experiment_id=experiment)
    server.sql(
        f"UPDATE experiments SET last_update_time = last_update_time - {MONTH_MS} WHERE experiment_id = {experiment}"
    )
    outcome = collect("--delete")[1][experiment]
    assert outcome["why"] == "1 of its runs and logged models are still there"  # the run's own month isn't over
    server.sql(f"UPDATE runs SET deleted_time = deleted_time - {MONTH_MS} WHERE run_uuid = '{run}'")
    listed = collect()[1]
    assert [listed[each]["bytes"] for each in (run, experiment)] == [len(CONTENT)] * 2
    code, found = collect("--delete")
    assert (code, found[experiment]["result"]) == (Exit.OK, "deleted")
    assert not server.has("experiments", experiment)
    assert not server.has("logged_models", model)
    assert server.files(experiment) == []


def test_one_that_fails_doesnt_stop_the_others_and_the_exit_code_tells(server: Server, collect: Any) -> None:
    experiment = server.experiment("failing")
    first, second, third = (server.run(experiment) for _ in range(3))
    server.sql(
        "CREATE FUNCTION refuse() RETURNS trigger AS 'BEGIN RAISE EXCEPTION ''not this one''; END' LANGUAGE plpgsql;"
        f"CREATE TRIGGER refuse BEFORE DELETE ON runs FOR EACH ROW WHEN (OLD.run_uuid = '{second}')"
        " EXECUTE FUNCTION refuse()"
    )
    try:
        code, found = collect("--delete")
    finally:
        server.sql("DROP TRIGGER refuse ON runs; DROP FUNCTION refuse")
    assert code == Exit.INCOMPLETE
    assert [found[run]["result"] for run in (first, second, third)] == ["deleted", "failed", "deleted"]
    assert "not this one" in found[second]["why"]
    assert collect("--delete")[0] == Exit.OK
    assert not server.has("runs", second)


def test_what_interrupted_uploads_left_behind_goes_after_a_day(server: Server, collect: Any) -> None:
    folder = server.artifacts / UPLOADS
    folder.mkdir(exist_ok=True)
    for name, hours in (("old", 25), ("going on", 23)):
        (folder / name).write_bytes(CONTENT)
        then = time.time() - hours * 3600
        os.utime(folder / name, (then, then))
    assert collect("--older-than", "0d")[1][f"{UPLOADS}/old"]["bytes"] == len(CONTENT)
    collect("--delete", "--older-than", "12h")
    assert [path.name for path in folder.iterdir()] == ["going on"]


def test_as_a_command_it_says_it_in_words(server: Server) -> None:
    run = server.run(server.experiment("in words"))
    command = [sys.executable, "-m", "gatehouse", "gc"]
    environment = server.gate.environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == Exit.OK, done.stderr
    assert f"run {run} " in done.stdout
    assert "(1,000 bytes): would be deleted" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("Nothing was changed: add --delete to do it")
    assert server.has("runs", run)


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (
            {"ARTIFACTS_DESTINATION": "", "DEFAULT_ARTIFACT_ROOT": "gs://b/x"},
            Exit.SETTINGS,
            "clients keep their artifacts",
        ),
        ({"BACKEND_STORE_URI": "postgresql://u:topsecret@127.0.0.1:1/d"}, Exit.UNAVAILABLE, "can't be used"),
    ],
)
def test_what_it_cant_start_with_is_an_error_with_a_fix(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, str],
    code: int,
    told: str,
) -> None:
    for name, value in {**server.gate.environment, **change}.items():
        monkeypatch.setenv(name, value)
    assert gc.main(["--delete", "--wait", "0"]) == code
    said = capsys.readouterr()
    assert told in said.err
    assert "fix: " in said.err
    assert "topsecret" not in said.out + said.err


@pytest.mark.parametrize("age", ["30", "-1d", "1w", "30d12h", "", "d"])
def test_an_age_that_isnt_one_is_refused(age: str) -> None:
    with pytest.raises(SystemExit):
        gc.main([f"--older-than={age}"])
