"""Two teams with the same names for everything: no route of MLflow's lets one see, count or change what is the other's.

The test walks MLflow's own routes. Each is called by a viewer, an editor and an admin of one team, once with the other
team's ids and once with ids that never were: the two answers must be the same, and tell nothing of the other team.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from gatehouse.operations import table
from gatehouse.operations.classes import Access
from gatehouse.operations.router import Route, operation_name
from gatehouse.operations.workspaces import REACHES, Reach, reach
from tests.access.test_routes import REGISTERED
from tests.support import Gate, Postgres
from tests.teams.conftest import DATABASE, Member

#: In all that the other team made, and in nothing else.
SECRET = "xyzzy-of-vision"
NAME = "same-name"


def test_every_operation_has_a_verdict_and_nothing_else_has() -> None:
    operations = {operation for _, _, operation in REGISTERED} - {table.GRAPHQL}
    closed = {name for name, access in table.OPERATIONS.items() if access is Access.CLOSED}
    assert sorted(operations - closed - set(REACHES)) == [], (
        "give these a verdict in gatehouse/operations/workspaces.py"
    )
    assert sorted(set(REACHES) - operations) == [], "MLflow has these no more"


def test_what_nobody_has_looked_at_is_refused() -> None:
    assert reach(Route("brand_new_operation", Access.READ, {})) is None
    assert reach(Route("graphql query.brandNewField", Access.ADMIN, {})) is None
    assert reach(Route("graphql query.mlflowGetRun", Access.READ, {})) is Reach.WITHIN


class Team:
    """What one team made: the ids of all of it, by the names of MLflow's fields."""

    def __init__(self, gate: Gate, editor: str, admin: str, workspace: str, mark: str) -> None:
        self.editor, self.admin = Member(gate, editor, workspace), Member(gate, admin, workspace)
        e, a = self.editor, self.admin
        tags = [{"key": "mark", "value": mark}]
        self.ids: dict[str, str] = {}
        experiment = e.make("experiments/create", name=NAME, tags=tags)["experiment_id"]
        run = e.run(experiment_id=experiment, run_name=NAME, tags=tags)
        e.make("runs/log-batch", run_id=run, metrics=[{"key": "m", "value": 12345.5, "timestamp": 1, "step": 1}],
               params=[{"key": "p", "value": mark}])  # fmt: skip
        dataset = {"name": NAME, "digest": "d", "source_type": "s", "source": mark}
        e.make("runs/log-inputs", run_id=run, datasets=[{"dataset": dataset}])
        model = e.make("logged-models", experiment_id=experiment, name=NAME, tags=tags)["model"]["info"]["model_id"]
        root = e.get("runs/get", run_id=run).json()["run"]["info"]["artifact_uri"]
        self.path = root.removeprefix("mlflow-artifacts:/")
        e.call(
            "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{self.path}/file.txt", data=mark.encode()
        ).raise_for_status()
        e.make("registered-models/create", name=NAME, description=mark, tags=tags)
        e.make("model-versions/create", name=NAME, source=f"{root}/x", run_id=run, description=mark, tags=tags)
        e.make("registered-models/alias", name=NAME, alias="best", version="1")
        prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}, {"key": "mlflow.prompt.text", "value": mark}]
        e.make("registered-models/create", name=f"{NAME}-prompt", tags=prompt[:1])
        e.make("model-versions/create", name=f"{NAME}-prompt", source="dummy-source", tags=prompt)
        trace = f"tr-{uuid.uuid4().hex}"
        info = {"trace_id": trace, "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}},
                "request_time": "2026-01-01T00:00:00Z", "execution_duration": "1s", "state": "OK",
                "request_preview": mark, "tags": {"mark": mark}}  # fmt: skip
        answer = e.call("POST", "/api/3.0/mlflow/traces", json={"trace": {"trace_info": info}})
        assert answer.status_code == 200, answer.text
        feedback = {
            "assessment_name": "f",
            "feedback": {"value": mark},
            "source": {"source_type": "HUMAN", "source_id": "x"},
        }
        answer = e.call("POST", f"/api/3.0/mlflow/traces/{trace}/assessments", json={"assessment": feedback})
        assert answer.status_code == 200, answer.text
        assessment = answer.json()["assessment"]["assessment_id"]
        made = e.call(
            "POST", "/api/3.0/mlflow/datasets/create", json={"name": NAME, "tags": json.dumps({"mark": mark})}
        )
        assert made.status_code == 200, made.text
        hook = a.make("webhooks", name=NAME, url="http://127.0.0.1:9/" + mark, description=mark,
                      events=[{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}])["webhook"]["webhook_id"]  # fmt: skip
        self.ids = {
            "experiment_id": experiment, "run_id": run, "model_id": model, "trace_id": trace, "assessment_id": assessment,
            "dataset_id": made.json()["dataset"]["dataset_id"], "webhook_id": hook,
        }  # fmt: skip


@pytest.fixture(scope="module")
def vision(teams: Gate, postgres: Postgres) -> Team:
    """The team whose things the others try to reach."""
    # An experiment's number that is nothing else's.
    postgres.sql("SELECT setval('experiments_experiment_id_seq', 54321)", DATABASE)
    return Team(teams, "victor", "vince", "vision", SECRET)


@pytest.fixture(scope="module")
def fraud(teams: Gate) -> Team:
    """The team that tries."""
    return Team(teams, "fred", "fiona", "fraud", "mark-of-fraud")


def never(name: str, value: str) -> str:
    """Return an id of the same form that never was."""
    if name == "experiment_id":
        return "987654321"
    return re.sub(r"[0-9a-f]{32}|[0-9a-f-]{36}", lambda found: uuid.uuid5(uuid.NAMESPACE_URL, found[0]).hex, value)


#: MLflow's further names for the same ids.
ALSO = {
    "run_uuid": "run_id", "source_run_id": "run_id", "request_id": "trace_id", "run_ids": "run_id", "trace_ids": "trace_id",
    "request_ids": "trace_id", "experiment_ids": "experiment_id", "item_id": "trace_id", "item_ids": "trace_id",
    "model_ids": "model_id", "locations": "experiment_id",
}  # fmt: skip
PLAIN = {
    "name": NAME, "new_name": f"{NAME}-new", "version": "1", "alias": "best", "key": "mark", "value": "1", "metric_key": "m",
    "max_results": 5, "timestamp": 1, "step": 1, "path": "file.txt", "artifact_path": "file.txt", "stage": "Production",
}  # fmt: skip


def message_of(operation: str) -> Any:
    """Return the message class of an operation's request, or None if its handler reads JSON itself."""
    from mlflow.server.handlers import HANDLERS

    found = {operation_name(handler.__name__): message for message, handler in HANDLERS.items()}
    return found.get(operation)


def fields(operation: str, ids: dict[str, str]) -> dict[str, Any]:
    """Return a request in which each field that names something names what the ids say."""
    message = message_of(operation)
    if message is None:
        known = {**ids, **{name: ids[of] for name, of in ALSO.items() if of in ids}}
        lists = {name: [value] for name, value in known.items() if name.endswith("s")}
        return {**PLAIN, **known, **lists}
    document: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = ids.get(ALSO.get(field.name, field.name), PLAIN.get(field.name))
        if value is None or field.message_type is not None:
            continue
        document[field.name] = [value] if field.is_repeated else value
    return document


def path_of(template: str, ids: dict[str, str], artifact: str) -> str:
    """Return a route's path with the ids in it."""

    def fill(found: re.Match[str]) -> str:
        name = re.split(r"[:]", found[0].strip("<>{}"))
        known = next((part for part in name if part in {**ids, **ALSO, **PLAIN, "artifact_path": 1}), name[-1])
        if known == "artifact_path":
            return f"{artifact}/file.txt"
        return str(ids.get(ALSO.get(known, known), PLAIN.get(known, NAME)))

    return re.sub(r"<[^>]*>|{[^}]*}", fill, template)


def told(answer: Any, ids: dict[str, str]) -> str:
    """Return an answer's text without what differs between any two requests."""
    text = answer.text
    for name, value in ids.items():
        text = re.sub(rf"(?<![0-9A-Za-z]){re.escape(value)}(?![0-9A-Za-z])", f"<{name}>", text)
    text = re.sub(r"\b[0-9a-f]{16}\b|\b[0-9a-f]{32}\b|[0-9a-f-]{36}|\b1[0-9]{12}\b|\b\d{9,}\b", "<some>", text)
    return re.sub(r"(workspaces/)(fraud|vision)", r"\1<w>", text)


#: What answers to an id that never was by making something of that id, as MLflow has clients choose them.
CHOSEN = {"start_trace_v3", "export_traces"}
#: They go by a name alone, and so to what is one's own: the second time it is another, or gone. A digest is drawn.
BY_NAME = {
    "create_dataset", "create_registered_model", "delete_model_version", "delete_registered_model", "rename_registered_model",
}  # fmt: skip
#: They start work, wait for other servers or stream; their stores are asked in other rows, and test_entering.py tries the door.
SKIPPED = {"generate_demo", "delete_demo", "serve_gateway_proxy", "serve_static_file", "serve"}

ROUTES = sorted(
    {
        (method, template, operation)
        for method, template, operation in REGISTERED
        if REACHES.get(operation) in {Reach.WITHIN, Reach.NAMED} and operation not in SKIPPED and not template.startswith("/ajax")
    }
)  # fmt: skip


def rows(postgres: Postgres, team: Team) -> Iterator[tuple[str, str]]:
    """Yield (table, row) of all rows that name something of a team's."""
    tables = postgres.sql(
        "SELECT string_agg(tablename, ' ') FROM pg_tables WHERE schemaname = 'public'", DATABASE
    ).split()
    wanted = [SECRET, *(value for name, value in team.ids.items() if name != "experiment_id")]
    for name in tables:
        listing = postgres.sql(f"SELECT t::text FROM {name} t ORDER BY 1", DATABASE)
        for row in listing.splitlines():
            if any(value in row for value in wanted):
                yield name, row


def test_no_route_lets_one_team_see_count_or_change_what_is_the_others(
    teams: Gate, vision: Team, fraud: Team, postgres: Postgres
) -> None:
    before = list(rows(postgres, vision))
    assert len(before) > 15
    people = [Member(teams, "fay", "fraud"), fraud.editor, fraud.admin]
    absent = {name: never(name, value) for name, value in vision.ids.items()}
    problems = []
    for method, template, operation in ROUTES:
        for who in people:
            answers = []
            for ids, artifact in ((vision.ids, vision.path), (absent, f"workspaces/vision/1/{'0' * 32}/artifacts")):
                document = fields(operation, ids)
                arguments: dict[str, Any] = {"params": document} if method == "GET" else {"json": document}
                answer = who.call(method, path_of(template, ids, artifact), **arguments)
                answers.append((answer.status_code, told(answer, ids)))
                if SECRET in answer.text or "12345.5" in answer.text:
                    problems.append(f"{who.email} {method} {template} tells of the other team: {answer.text[:300]}")
            if answers[0] != answers[1] and operation not in CHOSEN | BY_NAME:
                problems.append(f"{who.email} {method} {template} tells what exists: {answers}"[:700])
    assert not problems, "\n".join(problems)
    changed = set(before) - set(rows(postgres, vision))
    assert not changed, sorted(changed)
