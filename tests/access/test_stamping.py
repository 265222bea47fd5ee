"""What MLflow records as owner is the verified identity; what the client claimed is kept beside it."""

from __future__ import annotations

import gzip
import json
import time
import uuid
import zlib
from pathlib import Path
from typing import Any

import pytest

from gatehouse.stamping.people import CLAIMED_TAG, UPDATED_BY, USER_TAG
from tests.access.conftest import Client, line_of
from tests.access.test_people import HUMAN
from tests.support import Gate, Postgres, run_sdk

BOB = "bob@example.com"


CLAIMS: dict[str, dict[str, Any]] = {
    "user_id": {"user_id": "ceo"},
    "userId": {"userId": "ceo"},
    "the tag": {"tags": [{"key": USER_TAG, "value": "ceo"}]},
    "the tag, twice": {"tags": [{"key": USER_TAG, "value": "cfo"}, {"key": USER_TAG, "value": "ceo"}]},
    "both": {"user_id": "ceo", "tags": [{"key": USER_TAG, "value": "ceo"}, {"key": "k", "value": "v"}]},
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_a_runs_owner_is_whoever_created_it(bob: Client, claim: dict[str, Any]) -> None:
    tags = bob.tags(bob.run(**claim))
    assert tags["user_id"] == BOB
    assert tags[USER_TAG] == BOB
    assert tags[CLAIMED_TAG] == "ceo"


def test_a_run_without_a_claim_has_an_owner_and_no_claim(bob: Client) -> None:
    tags = bob.tags(bob.run())
    assert (tags["user_id"], tags[USER_TAG], tags.get(CLAIMED_TAG)) == (BOB, BOB, None)


SPELLED: dict[str, Any] = {
    "escapes": lambda body: body.replace("mlflow.user", "mlflow\\u002euser").encode(),
    "all escapes": lambda body: body.replace(
        "mlflow.user", "".join(f"\\u{ord(c):04x}" for c in "mlflow.user")
    ).encode(),
    "twice encoded": lambda body: json.dumps(body).encode(),
    "twice encoded escapes": lambda body: json.dumps(body.replace("mlflow.user", "mlflow\\u002euser")).encode(),
    "white space": lambda body: b"\n\t " + body.encode() + b" \n",
}


@pytest.mark.parametrize("spell", SPELLED.values(), ids=SPELLED)
@pytest.mark.parametrize("operation", ["create", "log-batch", "set-tag"])
def test_no_spelling_of_the_json_hides_a_claim(bob: Client, operation: str, spell: Any) -> None:
    if operation == "create":
        document: dict[str, Any] = {"experiment_id": "0", "user_id": "ceo", "tags": [{"key": USER_TAG, "value": "ceo"}]}
        run = ""
    else:
        run = bob.run()
        tag = {"key": USER_TAG, "value": "ceo"}
        document = {"run_id": run, "tags": [tag]} if operation == "log-batch" else {"run_id": run, **tag}
    answer = bob.call(
        "POST",
        f"/api/2.0/mlflow/runs/{operation}",
        data=spell(json.dumps(document)),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 200, answer.text
    tags = bob.tags(run or answer.json()["run"]["info"]["run_id"])
    assert (tags["user_id"], tags[USER_TAG], tags[CLAIMED_TAG]) == (BOB, BOB, "ceo")


@pytest.mark.parametrize(
    "body",
    [
        '{"experiment_id": "0", "start_time": "x", "user_id": "ceo"}',
        '{"experiment_id": "0", "status": 5, "user_id": "ceo", "tags": [{"key": 5}]}',
        '{"experiment_id": "0", "tags": {"key": "mlflow.user", "value": "ceo"}}',
        '{"experiment_id": "0", "tags": [{"key": "mlflow.user", "value": "ceo"}, 5]}',
        '{"experiment_id": "0", "tags": [5, {"key": "mlflow.user", "value": "ceo"}]}',
        '{"experiment_id": "0", "tags": [{"value": "ceo", "key": "mlflow.user"}, {"key": ["mlflow.user"]}]}',
        '{"user_id": "ceo", "userId": "ceo", "experiment_id": "0", "experimentId": "0"}',
        '{"experiment_id": "0", "user_id": ["ceo"]}',
        '{"experiment_id": "0", "user_id": {"a": "ceo"}, "user_id": null}',
        '[{"experiment_id": "0", "user_id": "ceo"}]',
        '"no object"',
        "{",
        "",
        "[" * 100000,
    ],
)
def test_a_malformed_request_creates_no_run_that_lacks_its_owner(bob: Client, postgres: Postgres, body: str) -> None:
    answer = bob.call(
        "POST", "/api/2.0/mlflow/runs/create", data=body.encode(), headers={"Content-Type": "application/json"}
    )
    # JSON's last mention of a field counts: that request names nobody, and isn't malformed after all.
    assert answer.status_code == (200 if body.endswith('"user_id": null}') else 400), answer.text
    others = postgres.sql("SELECT user_id FROM runs WHERE user_id NOT LIKE '%@example.com'", "access")
    assert others == ""
    untagged = postgres.sql(
        "SELECT run_uuid FROM runs WHERE run_uuid NOT IN (SELECT run_uuid FROM tags WHERE key = 'mlflow.user')",
        "access",
    )
    assert untagged == ""


def test_late_writes_change_the_claim_and_not_the_owner(bob: Client, alice: Client) -> None:
    run = bob.run()
    for person in (bob, alice):
        person.make("runs/set-tag", run_id=run, key=USER_TAG, value="ceo")
        person.make("runs/set-tag", run_uuid=run, key=USER_TAG, value="ceo")
        person.make("runs/log-batch", run_id=run, tags=[{"key": USER_TAG, "value": "ceo"}])
        assert bob.tags(run)[USER_TAG] == BOB
    assert bob.tags(run)[CLAIMED_TAG] == "ceo"


def test_nobody_deletes_the_owner(bob: Client, alice: Client) -> None:
    run = bob.run()
    bob.make("registered-models/create", name="owned")
    bob.make("model-versions/create", name="owned", source=f"runs:/{run}/model", run_id=run)
    experiment = bob.make("experiments/create", name="owned")["experiment_id"]
    for method, path, document in (
        ("POST", "runs/delete-tag", {"run_id": run}),
        ("POST", "experiments/delete-experiment-tag", {"experiment_id": experiment}),
        ("DELETE", "registered-models/delete-tag", {"name": "owned"}),
        ("DELETE", "model-versions/delete-tag", {"name": "owned", "version": "1"}),
        ("DELETE", "logged-models/m-1/tags/mlflow.user", {}),
        ("DELETE", "logged-models/m-1/tags/mlflow%2Euser", {}),
        ("DELETE", "traces/tr-1/tags", {}),
    ):
        answer = alice.call(method, f"/api/2.0/mlflow/{path}", json={**document, "key": USER_TAG})
        assert answer.status_code == 403, (path, answer.text)
        assert "can't be deleted" in answer.json()["message"]
    assert bob.tags(run)[USER_TAG] == BOB


def test_models_versions_experiments_and_logged_models_have_their_owner(bob: Client) -> None:
    claim = [{"key": USER_TAG, "value": "ceo"}]
    expected = {USER_TAG: BOB, CLAIMED_TAG: "ceo"}

    def tags_of(thing: dict[str, Any]) -> dict[str, str]:
        return {tag["key"]: tag["value"] for tag in thing["tags"]}

    name = f"stamped-{uuid.uuid4().hex}"
    bob.make("registered-models/create", name=name, tags=claim)
    run = bob.run()
    bob.make("model-versions/create", name=name, source=f"runs:/{run}/model", run_id=run, tags=claim)
    experiment = bob.make("experiments/create", name=name, tags=claim)["experiment_id"]
    model = bob.make("logged-models", experiment_id=experiment, name="m", tags=claim)["model"]
    assert tags_of(model["info"]) == expected
    for _ in range(2):
        found = bob.call("GET", "/api/2.0/mlflow/registered-models/get", params={"name": name}).json()
        assert tags_of(found["registered_model"]) == expected
        found = bob.call("GET", "/api/2.0/mlflow/model-versions/get", params={"name": name, "version": "1"}).json()
        assert tags_of(found["model_version"]) == expected
        found = bob.call("GET", "/api/2.0/mlflow/experiments/get", params={"experiment_id": experiment}).json()
        assert tags_of(found["experiment"]) == expected
        found = bob.call("GET", f"/api/2.0/mlflow/logged-models/{model['info']['model_id']}").json()
        assert tags_of(found["model"]["info"]) == expected
        # Once more, after late writes.
        tag = claim[0]
        bob.make("registered-models/set-tag", name=name, **tag)
        bob.make("model-versions/set-tag", name=name, version="1", **tag)
        bob.make("experiments/set-experiment-tag", experiment_id=experiment, **tag)
        answer = bob.call(
            "PATCH", f"/api/2.0/mlflow/logged-models/{model['info']['model_id']}/tags", json={"tags": claim}
        )
        assert answer.status_code == 200, answer.text


def trace_tags(postgres: Postgres, trace_id: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the tags and the metadata of a trace."""
    rows = []
    for table in ("trace_tags", "trace_request_metadata"):
        text = postgres.sql(f"SELECT key, value FROM {table} WHERE request_id = '{trace_id}'", "access")
        rows.append(dict(line.split("|", 1) for line in text.splitlines()))
    return rows[0], rows[1]


def start_trace(client: Client, trace_id: str) -> Any:
    info = {
        "trace_id": trace_id,
        "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}},
        "request_time": "2026-01-01T00:00:00Z",
        "state": "OK",
        "tags": {USER_TAG: "ceo", "k": "v"},
        "trace_metadata": {USER_TAG: "ceo", "mlflow.auth.username": "ceo", "mlflow.trace.user": "customer"},
        "assessments": [
            {
                "assessment_name": "good",
                "trace_id": trace_id,
                "source": {"source_type": "HUMAN", "source_id": "ceo"},
                "feedback": {"value": True},
                "create_time": "2026-01-01T00:00:00Z",
                "last_update_time": "2026-01-01T00:00:00Z",
            }
        ],
    }
    return client.call("POST", "/api/3.0/mlflow/traces", json={"trace": {"trace_info": info}})


def test_a_traces_owner_is_whoever_sent_it(bob: Client, postgres: Postgres) -> None:
    trace_id = f"tr-{uuid.uuid4().hex}"
    answer = start_trace(bob, trace_id)
    assert answer.status_code == 200, answer.text
    tags, metadata = trace_tags(postgres, trace_id)
    assert tags[USER_TAG] == BOB
    assert metadata[USER_TAG] == BOB
    assert CLAIMED_TAG in metadata
    assert "mlflow.auth.username" not in metadata
    assert metadata["mlflow.trace.user"] == "customer", "the application's own user is no claim"
    assert tags["k"] == "v"
    assert postgres.sql(f"SELECT source_id FROM assessments WHERE trace_id = '{trace_id}'", "access") == BOB
    late = bob.call("PATCH", f"/api/3.0/mlflow/traces/{trace_id}/tags", json={"key": USER_TAG, "value": "ceo"})
    assert late.status_code == 200, late.text
    tags, metadata = trace_tags(postgres, trace_id)
    assert (tags[USER_TAG], tags[CLAIMED_TAG], metadata[USER_TAG]) == (BOB, "ceo", BOB)


def test_peoples_feedback_is_theirs_and_a_judges_keeps_its_name(bob: Client) -> None:
    trace_id = f"tr-{uuid.uuid4().hex}"
    assert start_trace(bob, trace_id).status_code == 200
    sources = {"HUMAN": BOB, "LLM_JUDGE": "gpt", "CODE": "gpt"}
    for kind, expected in sources.items():
        assessment = {
            "assessment_name": kind,
            "source": {"source_type": kind, "source_id": "gpt"},
            "feedback": {"value": 1},
        }
        answer = bob.call("POST", f"/api/3.0/mlflow/traces/{trace_id}/assessments", json={"assessment": assessment})
        assert answer.status_code == 200, answer.text
        assert answer.json()["assessment"]["source"]["source_id"] == expected


def otlp(trace_id: bytes, *, json_form: bool = False) -> bytes:
    """Return one root span that claims another owner, in OTLP."""
    from google.protobuf.json_format import MessageToJson
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = trace_id, b"12345678", "root"
    span.start_time_unix_nano = int(time.time() * 1e9)
    span.end_time_unix_nano = span.start_time_unix_nano + 1000
    attribute = span.attributes.add()
    attribute.key, attribute.value.string_value = "mlflow.traceTag.mlflow.user", "ceo"
    if not json_form:
        return bytes(request.SerializeToString())
    document = json.loads(MessageToJson(request))
    found = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    found["traceId"], found["spanId"] = trace_id.hex(), b"12345678".hex()
    return json.dumps(document).encode()


@pytest.mark.parametrize("json_form", [False, True], ids=["protobuf", "JSON"])
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_spans_that_come_by_otlp_belong_to_whoever_sent_them(
    bob: Client, postgres: Postgres, json_form: bool, encoding: str | None
) -> None:
    trace = uuid.uuid4().bytes
    body = otlp(trace, json_form=json_form)
    headers = {
        "Content-Type": "application/json" if json_form else "application/x-protobuf",
        "x-mlflow-experiment-id": "0",
    }
    if encoding:
        headers["Content-Encoding"] = encoding
        body = gzip.compress(body[:40]) + gzip.compress(body[40:]) if encoding == "gzip" else zlib.compress(body)
    answer = bob.call("POST", "/v1/traces", data=body, headers=headers)
    assert answer.status_code == 200, answer.text
    tags, _ = trace_tags(postgres, f"tr-{trace.hex()}")
    assert (tags[USER_TAG], tags[CLAIMED_TAG]) == (BOB, "ceo")
    line = line_of(bob.gate, answer)["audit"]
    assert (line["action"], line["claimed"], line["objects"]) == ("export_traces", "ceo", {"experiment_id": "0"})


def test_a_compressed_body_that_grows_without_end_is_refused(bob: Client) -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, 31)
    body = b"".join(bomb.compress(bytes(1024 * 1024)) for _ in range(200)) + bomb.flush()
    headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0", "Content-Encoding": "gzip"}
    answer = bob.call("POST", "/v1/traces", data=body, headers=headers)
    assert answer.status_code == 400
    assert "32 MiB" in answer.json()["message"]


def test_a_dataset_and_its_records_have_their_author(bob: Client, postgres: Postgres) -> None:
    document = {"name": f"d{uuid.uuid4().hex}", "created_by": "ceo", "tags": json.dumps({USER_TAG: "ceo", "k": "v"})}
    made = bob.call("POST", "/api/3.0/mlflow/datasets/create", json=document).json()["dataset"]
    assert made["created_by"] == BOB
    assert json.loads(made["tags"])[CLAIMED_TAG] == "ceo"
    records = [{"inputs": {"q": 1}, "tags": {USER_TAG: "ceo"}}, {"inputs": {"q": 2}}]
    answer = bob.call(
        "POST",
        f"/api/3.0/mlflow/datasets/{made['dataset_id']}/records",
        json={"records": json.dumps(records), "updated_by": "ceo"},
    )
    assert answer.status_code == 200, answer.text
    authors = postgres.sql(
        f"SELECT DISTINCT created_by FROM evaluation_dataset_records WHERE dataset_id = '{made['dataset_id']}'",
        "access",
    )
    assert authors == BOB


def test_mlflows_own_authorship_knows_the_identity_too(bob: Client) -> None:
    queue = bob.call(
        "POST",
        "/api/3.0/mlflow/review-queues/create",
        json={"experiment_id": "0", "name": f"q{uuid.uuid4().hex}", "queue_type": "CUSTOM", "created_by": "ceo"},
    )
    assert queue.json()["review_queue"]["created_by"] == BOB, queue.text
    server = bob.call("POST", "/api/3.0/mlflow/mcp-servers", json={"name": f"io.example/{uuid.uuid4().hex}"})
    assert server.status_code == 200, server.text
    assert server.json()["created_by"] == BOB


SDK = """
import mlflow, sys
mlflow.set_experiment(experiment_id="0")
with mlflow.start_run() as run:
    mlflow.log_param("p", 1)
    mlflow.set_tag("mlflow.user", "ceo")
    with mlflow.start_span("s"):
        pass
mlflow.flush_trace_async_logging()
print(run.info.run_id, mlflow.get_last_active_trace_id())
"""


def test_a_run_and_a_trace_of_the_sdk_are_bobs(bob: Client, gate: Gate, postgres: Postgres, tmp_path: Path) -> None:
    done = run_sdk(gate, SDK, tmp_path, token=gate.provider.token("bob"), variables={"LOGNAME": "ceo", "USER": "ceo"})
    run, trace = done.stdout.split()[-2:]
    tags = bob.tags(run)
    assert (tags["user_id"], tags[USER_TAG], tags[CLAIMED_TAG]) == (BOB, BOB, "ceo")
    assert trace_tags(postgres, trace)[1][USER_TAG] == BOB


def test_peoples_feedback_is_theirs_in_each_spelling_of_human(bob: Client, postgres: Postgres) -> None:
    trace_id = f"tr-{uuid.uuid4().hex}"
    assert start_trace(bob, trace_id).status_code == 200
    answers = []
    for number, spelling in enumerate(HUMAN):
        assessment = {
            "assessment_name": f"a{number}",
            "source": {"source_type": spelling, "source_id": "ceo"},
            "feedback": {"value": 1},
        }
        path = f"/api/3.0/mlflow/traces/{trace_id}/assessments"
        answers.append(bob.call("POST", path, json={"assessment": assessment}).status_code)
    assert set(answers) == {200, 400}
    query = f"SELECT DISTINCT source_type, source_id FROM assessments WHERE trace_id = '{trace_id}' ORDER BY 1"
    assert postgres.sql(query, "access").splitlines() == [f"HUMAN|{BOB}", f"SOURCE_TYPE_UNSPECIFIED|{BOB}"]
    assert answers.count(200) + 1 == int(
        postgres.sql(f"SELECT count(*) FROM assessments WHERE trace_id = '{trace_id}'", "access")
    )


def test_who_changes_anothers_feedback_is_named_beside_it(bob: Client, alice: Client) -> None:
    trace_id = f"tr-{uuid.uuid4().hex}"
    assert start_trace(bob, trace_id).status_code == 200
    path = f"/api/3.0/mlflow/traces/{trace_id}/assessments"
    source = {"source_type": "HUMAN", "source_id": BOB}
    given = {"assessment_name": "good", "source": source, "feedback": {"value": True}, "metadata": {UPDATED_BY: "ceo"}}
    made = bob.call("POST", path, json={"assessment": given}).json()["assessment"]
    assert UPDATED_BY not in made.get("metadata", {})
    for metadata in ({}, {"k": "v", UPDATED_BY: "ceo"}):
        change = {"feedback": {"value": False}, "metadata": metadata}
        answer = alice.call(
            "PATCH",
            f"{path}/{made['assessment_id']}",
            json={"assessment": change, "update_mask": "feedback,metadata" if metadata else "feedback"},
        )
        assert answer.status_code == 200, answer.text
        changed = answer.json()["assessment"]
        assert (changed["source"]["source_id"], changed["feedback"]["value"]) == (BOB, False)
        assert changed["metadata"][UPDATED_BY] == "alice@example.com"


#: A parent that MLflow takes for none: some exporters send eight zero bytes.
PARENTS = {"absent": b"", "zeros": bytes(8), "one zero": b"\0", "many zeros": bytes(300), "another span": b"87654321"}


@pytest.mark.parametrize("parent", PARENTS.values(), ids=PARENTS)
def test_a_trace_by_otlp_belongs_to_whoever_sent_its_first_span(
    bob: Client, alice: Client, postgres: Postgres, parent: bytes
) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    trace = uuid.uuid4().bytes
    request = ExportTraceServiceRequest.FromString(otlp(trace))
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.parent_span_id = parent
    for key in ("mlflow.artifactLocation", "mlflow.trace.archiveLocation"):
        attribute = span.attributes.add()
        attribute.key, attribute.value.string_value = f"mlflow.traceTag.{key}", "gs://foreign"
    headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}
    for person in (bob, alice):
        answer = person.call("POST", "/v1/traces", data=request.SerializeToString(), headers=headers)
        assert answer.status_code == 200, answer.text
        tags, metadata = trace_tags(postgres, f"tr-{trace.hex()}")
        assert (tags[USER_TAG], metadata.get(USER_TAG)) == (BOB, None)
        assert "gs://foreign" not in tags.values()
    # Nor does a whole trace of the same name take it over.
    assert start_trace(bob, f"tr-{trace.hex()}").status_code == 200
    assert start_trace(alice, f"tr-{trace.hex()}").status_code == 200
    tags, metadata = trace_tags(postgres, f"tr-{trace.hex()}")
    assert (tags[USER_TAG], metadata[USER_TAG]) == (BOB, BOB)


def test_a_review_queue_is_its_makers_whosever_it_is(bob: Client, alice: Client) -> None:
    name = f"q{uuid.uuid4().hex}"
    path = "/api/3.0/mlflow/review-queues"
    made = bob.call("POST", f"{path}/get-or-create-user", json={"experiment_id": "0", "user": f"{name}@example.com"})
    assert made.status_code == 200, made.text
    assert made.json()["review_queue"]["created_by"] == BOB
    custom = {"experiment_id": "0", "name": name, "queue_type": "CUSTOM"}
    queue = bob.call("POST", f"{path}/create", json=custom).json()["review_queue"]["queue_id"]
    refused = bob.call("POST", f"{path}/update", json={"queue_id": queue, "newOwner": "ceo"})
    assert refused.status_code == 403, refused.text
    taken = alice.call("POST", f"{path}/update", json={"queue_id": queue, "new_owner": "alice@example.com"})
    assert taken.json()["review_queue"]["created_by"] == "alice@example.com", taken.text


def test_a_run_that_mlflow_makes_by_itself_is_that_of_whoever_asked_for_it(alice: Client, postgres: Postgres) -> None:
    """Without job execution the request fails after MLflow has made the run."""
    trace_id = f"tr-{uuid.uuid4().hex}"
    assert start_trace(alice, trace_id).status_code == 200
    scorer = {"name": "s", "mlflow_version": "3.17.2", "serialization_version": 1, "builtin_scorer_class": "Safety",
              "builtin_scorer_pydantic_data": {"name": "s"}}  # fmt: skip
    before = int(postgres.sql("SELECT count(*) FROM runs", "access"))
    for path, document in (
        ("genai/evaluate/invoke", {"serialized_scorers": [json.dumps(scorer)]}),
        ("issues/invoke", {"categories": ["c"], "provider": "openai", "model": "m", "endpoint_name": "e"}),
    ):
        answer = alice.call(
            "POST", f"/ajax-api/3.0/mlflow/{path}", json={"experiment_id": "0", "trace_ids": [trace_id], **document}
        )
        after = int(postgres.sql("SELECT count(*) FROM runs", "access"))
        assert after == before + 1, f"{path}: {answer.status_code} {answer.text}"
        before = after
    authors = """
        SELECT DISTINCT r.user_id, t.value
        FROM runs r LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'mlflow.user'
        WHERE r.run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'mlflow.runType')
    """
    assert postgres.sql(authors, "access") == "alice@example.com|alice@example.com"
