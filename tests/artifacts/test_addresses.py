"""The server touches its own places alone, whoever names another one, wherever, and however old the row is that does."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatehouse.artifacts.addresses import Addresses, Foreign, parse_allowed
from gatehouse.exit_codes import Exit
from gatehouse.start.settings import SettingsError, load
from tests.support import Gate, Postgres, Provider, running

DATABASE = "addresses"
OURS = Addresses(
    "gs://ours/mlflow",
    ["s3://team/models", "/mnt/shared", "wasbs://c@a.blob.core.windows.net/m"],
    "https://gate.example:8443",
)

OWN = [
    "gs://ours/mlflow",
    "gs://ours/mlflow/1/artifacts",
    "gs://ours/mlflow/a name with spaces/100%/ä/x..y",
    "s3://team/models/1",
    "/mnt/shared/a",
    "file:///mnt/shared",
    "wasbs://c@a.blob.core.windows.net/m/x",
    "mlflow-artifacts:/1/artifacts",
    "mlflow-artifacts:///1",
    "mlflow-artifacts://gate.example:8443/1",
    "https://gate.example:8443/api/2.0/mlflow-artifacts/artifacts/1",
    "runs:/0123/model",
    "models:/m-0123",
    "models:/name/1",
    "models:/name@alias",
]
FOREIGN = [
    "", "/", "/tmp", "/tmp/x", "/dev/shm", "/proc/self/environ", "/etc/passwd", "file:/tmp", "file:///tmp", "file://ours/mlflow", "file:",
    "gs://another-team/models", "gs://ours", "gs://ours/", "gs://ours/other", "gs://ours/mlflow2", "gs://ours/mlflow-private/x", "GS://ours/mlflow",
    "Gs://ours/mlflow/x", "gs:/ours/mlflow", "gs:ours/mlflow", "gs:///ours/mlflow", "gs://ours/mlflow/../x", "gs://ours/mlflow/./x",
    "gs://ours/mlflow/%2e%2e/x", "gs://ours/mlflow/%252e%252e/x", "gs://ours/mlflow/..%2fx", "gs://ours/mlflow/．．/x", "gs://ours/mlflow//x",
    "gs://ours/mlflow\\..\\x", "gs://ours/mlflow/%5c..%5cx", "gs://ours/mlflow?x", "gs://ours/mlflow#x", "gs://ours/mlflow/%3fx", "gs://ours/mlflow/%23x",
    "gs://ours@evil/mlflow", "gs://evil@ours/mlflow", "gs://ours:443/mlflow", "gs://OURS/mlflow", "gs://ours/MLFLOW", "gs://ours%2fmlflow", "gs://ours%00/mlflow",
    "gs://ours/mlflow/\n", " gs://ours/mlflow", "gs://ours/mlflow ", "gs://ours/mlflow/\x00", "gs://ours/mlflow/%00", "gs://оurs/mlflow",
    "s3://another/x", "s3://team/modelsx", "s3a://team/models", "r2://team/models", "b2://team/models", "wasb://c@a.blob.core.windows.net/m",
    "wasbs://c@b.blob.core.windows.net/m", "wasbs://d@a.blob.core.windows.net/m", "wasbs://a.blob.core.windows.net/m", "abfss://c@a.dfs.core.windows.net/m",
    "http://example.com/x", "https://example.com/api/2.0/mlflow-artifacts/artifacts/x", "http://gate.example/api/2.0/mlflow-artifacts/artifacts/x",
    "https://gate.example:8443/etc/passwd", "https://gate.example:8443/api/2.0/mlflow-artifacts/artifactsx", "https://u:p@gate.example:8443/api/2.0/mlflow-artifacts/artifacts/x",
    "https://gate.example:8443/api/2.0/mlflow-artifacts/artifacts/../../x", "mlflow-artifacts://evil/1", "mlflow-artifacts:/../x", "mlflow-artifacts:/%2e%2e/x",
    "dbfs:/x", "dbfs:/databricks/mlflow-tracking/x", "hdfs://x/y", "viewfs://x/y", "ftp://u:p@h/x", "sftp://u:p@h/x", "runs://evil/x/y", "models://profile@databricks/n/1",
    "runs:/x/../../y", "models:/%2e%2e/x", "mnt/shared", "./x", "..", "x", "dummy-source", "C:\\x", "\\\\host\\x", "//ours/mlflow",
    "file:mnt/shared", "javascript:x", "gs://[::1/mlflow",
]  # fmt: skip


@pytest.mark.parametrize("address", OWN)
def test_our_own_addresses_are_ours(address: str) -> None:
    OURS.check(address)
    OURS.check_source(address)


@pytest.mark.parametrize("address", FOREIGN, ids=repr)
def test_everything_else_is_foreign_in_any_spelling(address: str) -> None:
    with pytest.raises(Foreign, match="ALLOWED_ARTIFACT_LOCATIONS"):
        OURS.check(address)
    if address not in {"x", "dummy-source"}:
        with pytest.raises(Foreign):
            OURS.check_source(address)


@given(
    st.text(),
    st.sampled_from(["gs://ours/mlflow/", "gs://ours/", "gs://", "/mnt/shared/", "/", "mlflow-artifacts:/", ""]),
)
def test_what_passes_lies_below_one_of_our_places_for_whoever_reads_it(tail: str, head: str) -> None:
    """As the stores do, by joining names; and as MLflow does, by decoding first."""
    from posixpath import normpath
    from urllib.parse import unquote

    address = head + tail
    try:
        OURS.check(address)
    except Foreign:
        return
    if not address.startswith(("mlflow-artifacts:", "runs:", "models:")):
        for reading in (address, unquote(address), unquote(unquote(address))):
            plain = reading.removeprefix("file://").replace("gs://", "/gs/").replace("s3://", "/s3/")
            below = normpath(plain)
            assert below.startswith(("/gs/ours/mlflow", "/mnt/shared", "/s3/team/models", "wasbs:/c@a")), reading


@pytest.mark.parametrize(
    "value",
    [
        "*",
        "gs://",
        "s3:",
        "/",
        "/mnt",
        "file:///",
        "mlflow-artifacts:/",
        "runs:/",
        "http://x/y",
        "gs://a/../b",
        "gs://a,x",
    ],
)
def test_a_setting_that_would_let_in_everything_or_nothing_is_refused(value: str) -> None:
    with pytest.raises(Foreign, match="names"):
        parse_allowed(value)


def test_the_setting_is_a_list() -> None:
    assert parse_allowed("") == ()
    assert parse_allowed(" gs://a , s3://b/c,/mnt/shared,") == ("gs://a", "s3://b/c", "/mnt/shared")


@pytest.mark.parametrize("place", ["/data/a#b", "file:///data/../b", "gs://b/a?b", "gs://b/%2e%2e/a", "/data/a\nb"])
def test_an_own_store_that_could_be_read_in_two_ways_stops_the_start(place: str) -> None:
    with pytest.raises(SettingsError, match="ARTIFACTS_DESTINATION"):
        load({"BACKEND_STORE_URI": "sqlite:////tmp/x.db", "ARTIFACTS_DESTINATION": place})


# --- On a gate -------------------------------------------------------------------------------------------------


class Server:
    """A gate whose operator allows one more folder."""

    def __init__(self, gate: Gate, postgres: Postgres, allowed: Path, foreign: Path) -> None:
        self.gate, self.postgres, self.allowed, self.foreign = gate, postgres, allowed, foreign
        self.session = gate.session("bob")

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        return self.session.request(method, self.gate.url + path, timeout=30, **arguments)

    def post(self, path: str, **message: Any) -> Any:
        return self.call("POST", f"/api/2.0/mlflow/{path}", json=message)

    def make(self, path: str, **message: Any) -> Any:
        answer = self.post(path, **message)
        assert answer.ok, f"{answer.text}\n{self.gate.log()[-3000:]}"
        return answer.json()

    def sql(self, statement: str) -> str:
        return self.postgres.sql(statement, DATABASE)


@pytest.fixture(scope="module")
def server(provider: Provider, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("addresses")
    allowed, foreign = folder / "allowed" / "models", folder / "foreign"
    for place in (allowed, foreign):
        place.mkdir(parents=True)
        (place / "secret.txt").write_text("secret")
    environment = {"BACKEND_STORE_URI": postgres.create(DATABASE), "ALLOWED_ARTIFACT_LOCATIONS": str(allowed)}
    with running(Gate(folder, provider, **environment)) as gate:
        yield Server(gate, postgres, allowed, foreign)


PLACES = ["gs://another-team/models", "s3://foreign/x", "wasbs://c@a.blob.core.windows.net/x", "http://127.0.0.1:1/x", "/tmp", "/dev/shm", "file:///",
          "dbfs:/x", "FILE:///tmp", "mlflow-artifacts://elsewhere/x"]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_no_experiment_is_made_at_a_foreign_place(server: Server, place: str) -> None:
    answer = server.post("experiments/create", name=uuid.uuid4().hex, artifact_location=place)
    assert answer.status_code == 400
    # MLflow itself refuses some, with a way out of its own.
    assert re.search("ALLOWED_ARTIFACT_LOCATIONS|HOST_ADDRESSED", answer.json()["message"])


@pytest.mark.parametrize("place", PLACES)
def test_no_version_is_made_of_a_foreign_source(server: Server, place: str) -> None:
    name = uuid.uuid4().hex
    server.make("registered-models/create", name=name)
    answer = server.post("model-versions/create", name=name, source=f"{place}/secret.txt")
    assert answer.status_code == 400, answer.text
    assert server.sql(f"SELECT count(*) FROM model_versions WHERE name = '{name}'") == "0"


def read_all(server: Server, run: str, model: str, trace: str, name: str) -> dict[str, Any]:
    """Send each request by which the server would open the places of a run, a model, a version and a trace."""
    api, ajax = "/api/2.0/mlflow", "/ajax-api/2.0/mlflow"
    return {
        "list": server.call("GET", f"{api}/artifacts/list", params={"run_id": run}),
        "get": server.call("GET", "/get-artifact", params={"run_id": run, "path": "secret.txt"}),
        "upload": server.call("POST", f"{ajax}/upload-artifact", params={"run_uuid": run, "path": "x.txt"}, data=b"x"),
        "version": server.call("GET", "/model-versions/get-artifact", params={"name": name, "version": "1", "path": "secret.txt"}),
        "model": server.call("GET", f"{ajax}/logged-models/{model}/artifacts/files", params={"artifact_file_path": "secret.txt"}),
        "models": server.call("GET", f"{api}/logged-models/{model}/artifacts/directories"),
        "attachment": server.call("GET", f"{ajax}/get-trace-artifact", params={"request_id": trace, "path": str(uuid.uuid4())}),
        "trace": server.call("GET", f"{ajax}/get-trace-artifact", params={"request_id": trace}),
        "archive": server.call("GET", "/api/3.0/mlflow/traces/get", params={"trace_id": trace}),
    }  # fmt: skip


def things(server: Server) -> tuple[str, str, str, str, str]:
    """Make an experiment with a run, a logged model, a trace, and a version; return their names."""
    experiment = server.make("experiments/create", name=uuid.uuid4().hex)["experiment_id"]
    run = server.make("runs/create", experiment_id=experiment)["run"]["info"]["run_id"]
    model = server.make("logged-models", experiment_id=experiment, name="m")["model"]["info"]["model_id"]
    name, trace = uuid.uuid4().hex, f"tr-{uuid.uuid4().hex}"
    server.make("registered-models/create", name=name)
    server.make("model-versions/create", name=name, source=f"runs:/{run}/model", run_id=run)
    info = {
        "trace_id": trace,
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}},
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
        "tags": {"mlflow.artifactLocation": "gs://foreign", "mlflow.trace.archiveLocation": "gs://foreign"},
    }
    answer = server.call("POST", "/api/3.0/mlflow/traces", json={"trace": {"trace_info": info}})
    assert answer.ok, answer.text
    assert "gs://foreign" not in answer.text
    for key in ("mlflow.artifactLocation", "mlflow.trace.archiveLocation", "mlflow.trace.spansLocation"):
        late = server.call("PATCH", f"/api/3.0/mlflow/traces/{trace}/tags", json={"key": key, "value": "gs://foreign"})
        assert late.status_code == 403, late.text
    return experiment, run, model, trace, name


def move(server: Server, place: str, experiment: str, run: str, model: str, trace: str, name: str) -> None:
    """Put a place into the rows, as an older server would have taken it from a client."""
    server.sql(f"UPDATE experiments SET artifact_location = '{place}' WHERE experiment_id = {experiment}")
    server.sql(f"UPDATE runs SET artifact_uri = '{place}' WHERE run_uuid = '{run}'")
    server.sql(f"UPDATE logged_models SET artifact_location = '{place}' WHERE model_id = '{model}'")
    server.sql(f"UPDATE model_versions SET source = '{place}', storage_location = '{place}' WHERE name = '{name}'")
    server.sql(
        f"UPDATE trace_tags SET value = '{place}' WHERE request_id = '{trace}' AND key = 'mlflow.artifactLocation'"
    )
    server.sql(
        f"INSERT INTO trace_tags (request_id, key, value) VALUES ('{trace}', 'mlflow.trace.archiveLocation', "
        f"'{place}'), "
        f"('{trace}', 'mlflow.trace.spansLocation', 'ARCHIVE_REPO') ON CONFLICT (request_id, key) DO UPDATE SET value "
        "= excluded.value"
    )


@pytest.mark.parametrize("scheme", ["folder", "gs://another-team/models", "s3://foreign/x", "http://127.0.0.1:1/x"])
def test_old_rows_that_name_a_foreign_place_are_refused_with_the_way_out(server: Server, scheme: str) -> None:
    place = str(server.foreign) if scheme == "folder" else scheme
    made = things(server)
    move(server, place, *made)
    answers = read_all(server, *made[1:])
    told = 0
    for what, answer in answers.items():
        assert "secret" not in answer.text.replace("secret.txt", ""), what
        assert (
            answer.status_code in {400, 403, 404, 500} if what in {"trace", "archive"} else answer.status_code == 403
        ), (what, answer.text)
        told += "ALLOWED_ARTIFACT_LOCATIONS" in answer.text
    assert told >= 7, {what: answer.text for what, answer in answers.items()}
    assert not (server.foreign / "x.txt").exists()
    # The run itself goes on, and new ones can be made where it is.
    server.make("runs/log-metric", run_id=made[1], key="m", value=1, timestamp=1)
    server.make("runs/create", experiment_id=made[0])


def test_a_place_that_the_operator_allows_is_read_and_written(server: Server) -> None:
    experiment = server.make("experiments/create", name=uuid.uuid4().hex, artifact_location=f"{server.allowed}/e")
    run = server.make("runs/create", experiment_id=experiment["experiment_id"])["run"]["info"]
    assert run["artifact_uri"].startswith(f"{server.allowed}/e")
    made = things(server)
    move(server, str(server.allowed), *made)
    answers = read_all(server, *made[1:])
    for what in ("list", "get", "upload", "version", "model", "models"):
        assert answers[what].status_code == 200, (what, answers[what].text)
    assert answers["get"].text == "secret"
    assert (server.allowed / "x.txt").read_text() == "x"


def test_chains_of_runs_and_models_end_at_the_same_question(server: Server) -> None:
    """A version of a version of a run whose place is foreign."""
    made = things(server)
    run, name = made[1], uuid.uuid4().hex
    server.make("registered-models/create", name=name)
    server.make("model-versions/create", name=name, source=f"models:/{made[4]}/1")
    server.sql(f"UPDATE runs SET artifact_uri = '{server.foreign}' WHERE run_uuid = '{run}'")
    for source in (f"runs:/{run}", f"models:/{made[4]}/1"):
        server.sql(
            f"UPDATE model_versions SET source = '{source}', storage_location = '{source}' WHERE name = '{name}'"
        )
        server.sql(
            f"UPDATE model_versions SET source = 'runs:/{run}', storage_location = NULL WHERE name = '{made[4]}'"
        )
        answer = server.call(
            "GET", "/model-versions/get-artifact", params={"name": name, "version": "1", "path": "secret.txt"}
        )
        assert answer.status_code == 403, answer.text
        assert "ALLOWED_ARTIFACT_LOCATIONS" in answer.text


def test_a_prompt_may_name_no_place_at_all(server: Server) -> None:
    name = uuid.uuid4().hex
    prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    server.make("registered-models/create", name=name, tags=prompt)
    server.make(
        "model-versions/create",
        name=name,
        source="dummy-source",
        tags=[*prompt, {"key": "mlflow.prompt.text", "value": "t"}],
    )
    answer = server.call("GET", "/model-versions/get-artifact", params={"name": name, "version": "1", "path": "x"})
    assert answer.status_code == 403, answer.text


def test_a_wrong_list_stops_the_start_and_says_why(provider: Provider, tmp_path: Path) -> None:
    gate = Gate(tmp_path, provider, ALLOWED_ARTIFACT_LOCATIONS="gs://team/models,*").start()
    try:
        assert gate.wait_end() == Exit.SETTINGS
        assert "ALLOWED_ARTIFACT_LOCATIONS names '*'" in gate.log()
    finally:
        gate.stop()


def test_json_is_what_the_answers_are(server: Server) -> None:
    answer = server.post("experiments/create", name="x", artifact_location="gs://foreign/x")
    assert json.loads(answer.text)["error_code"] == "INVALID_PARAMETER_VALUE"
