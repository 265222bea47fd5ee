"""No name of a person passes unseen:

a verdict for each field, parameter and column, and stamps that hold for any request.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatehouse.operations.classes import Access
from gatehouse.operations.router import operation_name
from gatehouse.operations.table import OPERATIONS
from gatehouse.request.context import Context
from gatehouse.stamping import plain, rows
from gatehouse.stamping.documents import DOCUMENTS
from gatehouse.stamping.layer import OPAQUE, SPANS, read, stamp_json
from gatehouse.stamping.people import (
    CLAIMED_TAG,
    NOBODY,
    RESERVED_TAGS,
    STAMPS,
    UPDATED_BY,
    USER_TAG,
    Refused,
)
from gatehouse.upstream import requests
from tests.access.test_routes import APP, FLASK

BOB = "bob@example.com"
CLASSES = {operation_name(handler): kind for handler, kind in requests.message_classes().items()}
WRITES = sorted(name for name, access in OPERATIONS.items() if access in {Access.WRITE, Access.ADMIN})

#: Names that a field of any request may have without naming a person. A new one fails until it is here or has a
#: verdict.
_NAMES = """
    action action_endpoint_id alias artifact_location assessment_id assessment_name bool_value budget_action budget_policy_id
    budget_unit bytes_value categories client_request_id code connect_options dataset_digest dataset_id dataset_name
    dataset_record_ids default_artifact_root deployment_job_id description digest display_name endpoint_id endpoint_name
    entity error_code error_message etag experiment_id experiment_ids features filter_string full_table_name guardrail_id icons
    instruction issue_id issue_name item_id item_ids item_type job_id job_name key kind linkage_type location log_assessments
    message model model_definition_id model_id model_input model_json model_name model_output model_output_parameters
    model_parameters model_route model_type mlflow_version name negative_label new_name null_value optimizer_config_json
    optimizer_type options overrides page_token parent_span_id path paths positive_label profile prompt_parameters
    prompt_template provider queue_id queue_type rationale request request_id request_ids request_preview resource_id
    resource_type response response_preview retention root_causes routing_strategy run_id run_link run_name run_uuid schema
    schema_id schema_ids scorer_id scorer_name scorer_version scorer_versions scorers secret_id secret_name
    serialization_format serialized_scorer serialized_scorers server_alias server_json server_version severity source
    source_prompt_uri source_run_id span_id stack_trace stage state status strategy string_value tag_key target_scope
    target_value tools trace_id trace_ids trace_state transport_type type unit upload_id url value version webhook_id
    workspace_name sample_rate start_time timeout
"""
NOBODYS = frozenset(_NAMES.split())
SUSPICIOUS = re.compile(
    r"user|owner|author|creator|_by$|(?<!re)source_id|email|mail|reviewer|assignee|annotator|person|principal|login|account|"
    r"identity|member|who|username|tags|metadata"
)


def leaves(descriptor: Any, path: str = "", seen: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (path, name) of each field that can hold text: strings, enums, maps, and lists of keys and values."""
    for field in descriptor.fields:
        here = f"{path}{field.name}"
        kind = field.message_type
        if kind is None:
            if field.type in {field.TYPE_STRING, field.TYPE_BYTES, field.TYPE_ENUM}:
                yield here, field.name
        elif kind.GetOptions().map_entry or ({"key", "value"} <= set(kind.fields_by_name) and len(kind.fields) <= 3):
            yield here, f"{field.name}[]"
        elif kind.full_name not in seen and not kind.full_name.startswith("google.protobuf.Value"):
            yield from leaves(kind, f"{here}.", (*seen, kind.full_name))


def covered(operation: str, path: str) -> bool:
    """Tell whether a path, or what it lies in, is stamped or explained."""
    known = {*STAMPS[operation].fields} if operation in STAMPS else set()
    known |= {field for name, field in NOBODY if name == operation}
    return any(path == field or path.startswith(field + ".") for field in known)


def test_every_field_of_every_request_that_could_name_a_person_has_a_verdict() -> None:
    without: list[tuple[str, str]] = []
    count = 0
    for operation in WRITES:
        if operation not in CLASSES:
            continue
        for path, name in leaves(CLASSES[operation].DESCRIPTOR):
            count += 1
            if name not in NOBODYS and not covered(operation, path):
                without.append((operation, path))
    assert count > 400
    assert not without, f"{without}: stamp these, or explain them in NOBODY (gatehouse/stamping/people.py)"
    assert [name for name in NOBODYS if SUSPICIOUS.search(name)] == [], "a name of nobody that could be somebody's"


def test_no_verdict_is_for_a_field_that_is_no_more() -> None:
    for operation, stamp in STAMPS.items():
        paths = [path for path, _ in leaves(CLASSES[operation].DESCRIPTOR)]
        for field in stamp.fields:
            assert any(path == field or path.startswith(field + ".") for path in paths), (operation, field)
    for operation, field in NOBODY:
        paths = [path for path, _ in leaves(CLASSES[operation].DESCRIPTOR)]
        assert any(path == field or path.startswith(field + ".") for path in paths), (operation, field)


#: Handlers of MLflow that take JSON as it comes, or nothing at all.
JSON_HANDLERS = {
    "cancel_job": "_cancel_job",
    "delete_demo": "_delete_demo",
    "generate_demo": "_generate_demo",
    "invoke_genai_evaluate": "_invoke_genai_evaluate_handler",
    "invoke_issue_detection": "_invoke_issue_detection_handler",
    "invoke_scorer": "_invoke_scorer_handler",
    "serve_create_promptlab_run": "create_promptlab_run_handler",
    "upsert_online_scoring_config": "_upsert_online_scoring_config",
}


def fastapi_bodies() -> dict[str, Any]:
    """Return the model of the body of each of FastAPI's operations, or None if it has none."""
    found = {}
    for native in APP.router.routes[:-1]:
        for context in native.effective_route_contexts():
            route = context.original_route
            body = route.body_field.field_info.annotation if route.body_field else None
            found[operation_name(route.endpoint.__name__)] = body
    return found


def test_every_parameter_of_requests_without_a_message_class_has_a_verdict() -> None:
    from mlflow.server import handlers

    bodies = fastapi_bodies()
    for operation in WRITES:
        if operation in CLASSES or operation in OPAQUE or operation == SPANS:
            continue
        if operation in JSON_HANDLERS:
            source = inspect.getsource(getattr(handlers, JSON_HANDLERS[operation]))
            names = set(re.findall(r'(?:args|request_json|data)(?:\.get\(|\[)\s*"(\w+)"', source))
        else:
            model = bodies[operation]  # KeyError: a handler that nobody has looked at yet
            names = set(model.model_fields) if model is not None else set()
        stamped = {"user_id", "params"} if operation in DOCUMENTS else set()
        if operation == "serve_create_promptlab_run":
            stamped |= {"tags"}  # MLflow fails with any
        assert names - NOBODYS - stamped == set(), operation


def test_each_handler_reads_the_message_class_that_is_stamped_for_it() -> None:
    from mlflow.server import handlers

    for operation in STAMPS:
        kind = CLASSES[operation]
        source = inspect.getsource(inspect.unwrap(handlers.HANDLERS[kind]))
        assert re.search(rf"_get_request_message\(\s*{kind.__name__}\(\)", source), operation


def test_every_column_that_could_name_a_person_has_a_verdict() -> None:
    import mlflow.store.model_registry.dbmodels.models
    import mlflow.store.tracking.dbmodels.models  # noqa: F401
    from mlflow.store.db.base_sql_model import Base

    explained = {
        ("assessments", "source_id"): "stamped for a person's",
        ("entity_associations", "source_id"): "a thing",
        ("evaluation_dataset_records", "source_id"): "a trace or a document",
        ("inputs", "source_id"): "a thing",
        ("model_versions", "user_id"): "MLflow leaves it empty: the owner is a tag",
        ("review_queue_users", "user_id"): "who shall review: an assignment",
        ("runs", "user_id"): "stamped",
        ("assessments", "assessment_metadata"): "stamped in the message",
        ("evaluation_dataset_records", "tags"): "stamped in the message",
    }
    for mapper in Base.registry.mappers:
        table = mapper.local_table.name
        for column in mapper.columns:
            if column.name in {*rows.CREATED, *rows.CHANGED} or (table, column.name) in explained:
                continue
            assert not SUSPICIOUS.search(column.name), (table, column.name)
    tags = {mapper.local_table.name for mapper in Base.registry.mappers if "tag" in mapper.local_table.name}
    assert {table for table in tags if not table.endswith("_tags") and table not in rows.TAGS} == set()


# --- The stamps themselves -------------------------------------------------------------------------------------

AUTHORS = {"created_by", "updated_by", "completed_by", "user_id", "new_owner"}


def forgeries(message: Any, descriptor: Any, embedded: bool) -> Iterator[str]:
    """Yield each place of a message, as MLflow would read it, that names another author than bob."""
    for field in descriptor.fields:
        value = getattr(message, field.name)
        kind = field.message_type
        if field.name in AUTHORS and isinstance(value, str) and value not in {"", BOB}:
            yield f"{field.name}={value}"
        elif embedded and field.name in {"tags", "records"} and isinstance(value, str) and value:
            yield from forged_json(json.loads(value))
        elif kind is None:
            continue
        elif kind.GetOptions().map_entry:
            if field.name in {"tags", "trace_metadata"}:
                yield from forged_json(dict(value))
            if field.name == "trace_metadata":
                yield from (key for key in ("mlflow.auth.username", "mlflow.auth.userId") if key in value)
        else:
            repeated = hasattr(value, "add")
            for item in value if repeated else [value]:
                if not repeated and not message.HasField(field.name):
                    continue
                if {"key", "value"} <= set(kind.fields_by_name) and field.name in {"tags", "request_metadata"}:
                    yield from forged_json({item.key: item.value})
                elif kind.name == "Assessment" and item.metadata.get(UPDATED_BY, BOB) != BOB:
                    yield f"{UPDATED_BY}={item.metadata[UPDATED_BY]}"
                elif kind.name == "AssessmentSource":
                    if item.source_type in {0, 1} and item.source_id != BOB:
                        yield f"source {item.source_type} {item.source_id}"
                elif not kind.full_name.startswith("google.protobuf."):
                    yield from forgeries(item, kind, embedded)


def forged_json(value: Any) -> Iterator[str]:
    """Yield what is forged in the JSON of tags, metadata and records."""
    if isinstance(value, dict):
        if value.get(USER_TAG, BOB) != BOB:
            yield f"{USER_TAG}={value[USER_TAG]}"
        if (
            str(value.get("source_type")).upper() == "HUMAN"
            and (value.get("source_data") or {}).get("user_name") != BOB
        ):
            yield f"source {value}"
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from forged_json(item)


#: What protobuf's JSON takes, or might take, for the enum value HUMAN = 1.
HUMAN = ("HUMAN", 1, 1.0, True, "1", "01", "+1", " 1", "1 ", "\t1\n", "١", "１", "0_1", "0001", 1e0, "1.0", "human",
         "Human", " HUMAN", "HUMAN ", "0x1", "1e0", [1], ["HUMAN"], {"HUMAN": 1}, None, 0, "", "SOURCE_TYPE_UNSPECIFIED",
         "𝟏", "௧", "１ ", "0b1", "1L", "1\u00a0", "\u20071", "+01", "+0_1", "00_1", -1, 257, 4294967297, 2**32 + 1, "true",
         "True", 1.5, "１１", 10**30)  # fmt: skip
TEXTS = st.sampled_from(["ceo", USER_TAG, BOB, "x", "", "mlflow.auth.username", UPDATED_BY])
KEYS = st.sampled_from([USER_TAG, CLAIMED_TAG, UPDATED_BY, "mlflow.auth.username", "mlflow.artifactLocation", "k"])
JSON_TAGS = st.dictionaries(KEYS, TEXTS, max_size=4)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"inputs": st.just({"q": 1})},
        optional={
            "tags": st.none() | JSON_TAGS | TEXTS,
            "source": st.fixed_dictionaries(
                {"source_type": st.sampled_from(["HUMAN", "human", "Human", "TRACE", 1])},
                optional={"source_data": st.none() | st.just({"user_name": "ceo"})},
            ),
        },
    ),
    max_size=3,
)


def documents(descriptor: Any, operation: str, depth: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Return JSON of a message in any spelling that protobuf takes."""
    optional = {}
    for field in descriptor.fields:
        if depth < 4 and (value := of_field(field, operation, depth)) is not None:
            optional[field.name] = value
            if field.json_name != field.name and depth:
                optional[field.json_name] = value
    return st.fixed_dictionaries({}, optional=optional)


def of_field(field: Any, operation: str, depth: int) -> st.SearchStrategy[Any] | None:
    """Return what may stand in a field, or None if nothing here matters."""
    kind = field.message_type
    value: st.SearchStrategy[Any]
    if kind is None:
        if field.name in {"tags", "records"} and not field.is_repeated:
            value = (JSON_TAGS if field.name == "tags" else RECORDS).map(json.dumps) | TEXTS
        elif field.type == field.TYPE_STRING:
            value = TEXTS
        elif field.type == field.TYPE_ENUM and field.name == "source_type":
            value = st.sampled_from(HUMAN)
        else:
            return None
    elif kind.GetOptions().map_entry:
        return JSON_TAGS if kind.fields_by_name["value"].message_type is None else None
    elif {"key", "value"} == set(kind.fields_by_name):
        value = st.fixed_dictionaries({"key": KEYS, "value": TEXTS})
    elif kind.full_name == "google.protobuf.FieldMask":
        return st.sampled_from(["metadata", "feedback", "rationale,metadata", ""])
    elif kind.full_name.startswith(("google.protobuf.", "opentelemetry.")):
        return None
    else:
        value = documents(kind, operation, depth + 1)
    return st.lists(value, max_size=3) if field.is_repeated else value


async def nothing() -> Any:
    """The body of a request whose body is known."""
    raise AssertionError


def request() -> Context:
    return Context({"type": "http"}, nothing)


def stamped(operation: str, document: Any) -> tuple[Any, Context]:
    """Return the message that MLflow reads after the stamp, and what its audit line will say."""
    context = request()
    body = stamp_json(json.dumps(document).encode(), operation, BOB, context)
    return read(operation, json.loads(body)), context


@pytest.mark.parametrize("operation", sorted(STAMPS))
def test_no_request_in_any_spelling_names_another_author(operation: str) -> None:
    accepted = []

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(documents(CLASSES[operation].DESCRIPTOR, operation))
    def check(document: dict[str, Any]) -> None:
        try:
            message, _ = stamped(operation, document)
        except (Refused, requests.Unreadable):  # by us, or, where nothing is to be stamped, by MLflow's own reading
            return
        accepted.append(document)
        assert list(forgeries(message, message.DESCRIPTOR, "dataset" in operation)) == []
        if operation == "create_run":
            assert message.user_id == BOB
            assert [tag.value for tag in message.tags if tag.key == USER_TAG] == [BOB]

    check()
    assert len(accepted) >= 5, "the strategy makes hardly any request that MLflow would take"


#: What is forged, by operation; after the stamp the place in the message holds bob, and the audit record the claim.
TAG = {"key": USER_TAG, "value": "ceo"}
FORGED: dict[str, dict[str, Any]] = {
    "create_run": {"user_id": "ceo", "tags": [TAG]},
    "create_assessment": {"assessment": {"source": {"sourceType": "HUMAN", "sourceId": "ceo"}}},
    "update_assessment": {"assessment": {"source": {"source_type": 1, "source_id": "ceo"}}},
    "create_dataset": {"created_by": "ceo", "tags": json.dumps({USER_TAG: "ceo"})},
    "set_dataset_tags": {"tags": json.dumps({USER_TAG: "ceo"})},
    "upsert_dataset_records": {"records": json.dumps([{"inputs": {}, "tags": {USER_TAG: "ceo"}}])},
    "start_trace_v3": {"trace": {"traceInfo": {"traceMetadata": {USER_TAG: "ceo"}, "tags": {USER_TAG: "ceo"}}}},
    "deprecated_start_trace_v2": {"request_metadata": [TAG], "tags": [TAG]},
    "deprecated_end_trace_v2": {"request_metadata": [TAG], "tags": [TAG]},
}


@pytest.mark.parametrize("operation", sorted(set(STAMPS) - {"update_review_queue"}))
def test_each_stamp_replaces_a_forged_name_and_notes_it(operation: str) -> None:
    fields = STAMPS[operation].fields
    document = FORGED.get(operation)
    if document is None:
        if fields == ("key",):
            with pytest.raises(Refused, match="can't be deleted"):
                stamped(operation, {"key": USER_TAG})
            return
        document = {"tags": [TAG]} if fields == ("tags",) else TAG if "key" in fields else {fields[0]: "ceo"}
    message, context = stamped(operation, document)
    assert context.claimed == "ceo"
    assert list(forgeries(message, message.DESCRIPTOR, "dataset" in operation)) == []
    left = requests.write(message).decode()
    if fields[0] in AUTHORS | {"tags"} and operation not in {"log_batch", "set_dataset_tags", "set_logged_model_tags"}:
        assert BOB in left


@pytest.mark.parametrize("spelling", HUMAN, ids=repr)
def test_no_spelling_of_human_keeps_anothers_name(spelling: Any) -> None:
    document = {"assessment": {"source": {"source_type": spelling, "source_id": "ceo"}}}
    try:
        message, _ = stamped("create_assessment", document)
    except Refused:
        return
    source = message.assessment.source
    assert source.source_id == (BOB if source.source_type in {0, 1} else "ceo")
    assert source.source_type in {0, 1}, "none of these is a judge or a program"


def test_a_judges_and_a_programs_feedback_keeps_its_name() -> None:
    for kind in ("LLM_JUDGE", "CODE", 2, 3):
        message, context = stamped(
            "create_assessment", {"assessment": {"source": {"source_type": kind, "source_id": "gpt"}}}
        )
        assert (message.assessment.source.source_id, context.claimed) == ("gpt", None)


def test_a_review_queue_is_handed_to_nobody_and_taken_over_by_oneself() -> None:
    for owner in ("alice@example.com", "", "ceo"):
        with pytest.raises(Refused) as refused:
            stamped("update_review_queue", {"queue_id": "1", "new_owner": owner})
        assert refused.value.status == 403
    message, _ = stamped("update_review_queue", {"queue_id": "1", "newOwner": "BOB@example.com"})
    assert message.new_owner == BOB
    assert not stamped("update_review_queue", {"queue_id": "1", "users": ["a"]})[0].HasField("new_owner")


def test_nobody_sets_the_tags_by_which_mlflow_finds_a_traces_data() -> None:
    tags = dict.fromkeys((*RESERVED_TAGS, "k"), "gs://foreign")
    message, _ = stamped("start_trace_v3", {"trace": {"trace_info": {"tags": tags, "trace_metadata": tags}}})
    assert set(message.trace.trace_info.tags) == {"k"}
    pairs = [{"key": key, "value": value} for key, value in tags.items()]
    message, _ = stamped("deprecated_start_trace_v2", {"tags": pairs, "request_metadata": pairs})
    assert {pair.key for pair in message.tags} == {"k"}


@pytest.mark.parametrize("key", sorted(RESERVED_TAGS))
@pytest.mark.parametrize("operation", ["set_trace_tag", "set_trace_tag_v3", "delete_trace_tag", "delete_trace_tag_v3"])
def test_nobody_sets_or_deletes_such_a_tag_later(operation: str, key: str) -> None:
    document = {"request_id": "tr-1", "key": key, "value": "gs://foreign"}
    if operation.startswith("delete") and key == "mlflow.trace.archivalFailure":
        stamped(operation, document)  # MLflow's way to have it tried again
        return
    with pytest.raises(Refused, match="MLflow's own") as refused:
        stamped(operation, document)
    assert refused.value.status == 403


def test_what_no_stamp_concerns_is_handed_on_byte_for_byte() -> None:
    for operation, body in (
        ("log_metric", b'{"run_id": "1", "key":"mlflow.user" , "value": 1.0}'),
        ("log_batch", b'{"run_id":"1","metrics":[{"key":"m","value":NaN,"timestamp":1}]}'),
        ("set_tag", b'{"runId": "1", "key": "k", "value": "v"}'),
        ("update_run", b"not JSON"),
    ):
        assert stamp_json(body, operation, BOB, request()) is body


def test_numbers_survive_the_message() -> None:
    """Including those of which JSON has two spellings: 64 bits, NaN, Infinity."""
    metric = {"key": "m", "timestamp": 2**53 + 1, "step": -(2**62), "value": "NaN"}
    message, _ = stamped(
        "log_batch", {"run_id": "1", "metrics": [metric, {**metric, "value": "-Infinity"}], "tags": [TAG]}
    )
    assert [(m.timestamp, m.step) for m in message.metrics] == [(2**53 + 1, -(2**62))] * 2
    assert (str(message.metrics[0].value), message.metrics[1].value) == ("nan", float("-inf"))


def test_mlflows_flask_application_is_the_one_whose_handlers_are_stamped() -> None:
    endpoints = {operation_name(rule.endpoint) for rule in FLASK.url_map.iter_rules()}
    assert set(STAMPS) <= endpoints


RUN_TEXT = st.sampled_from(
    ["", "r", "mlflow.user", "gatehouse.claimed_user", "bob@example.com", "eve", "ü", "\ud800", "a\\b", 'q"', "\0"]
)
RUN_TAGS = st.lists(st.fixed_dictionaries({"key": RUN_TEXT, "value": RUN_TEXT}), max_size=4)
ODD_TAGS: st.SearchStrategy[Any] = st.sampled_from(
    [None, {}, ["x"], [{"key": "k"}], [{"key": "k", "value": 1}], [{"key": "k", "value": "v", "x": 1}]]
)


@settings(max_examples=300, deadline=None)
@given(
    document=st.fixed_dictionaries(
        {},
        optional={
            "experiment_id": RUN_TEXT | st.just(7),
            "experimentId": st.just("1"),
            "user_id": RUN_TEXT | st.none(),
            "start_time": st.sampled_from([0, -1, 2**63 - 1, 2**63, "5", 1.0, True]),
            "run_name": RUN_TEXT,
            "tags": RUN_TAGS | RUN_TAGS | ODD_TAGS,
            "unknown": st.just(1),
        },
    )
)
def test_a_plain_new_run_is_stamped_as_its_message_is(document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    context = request()
    found = plain.run(document, body)
    try:
        message = read("create_run", document)
        claimed = STAMPS["create_run"].apply(message, BOB)
        expected = json.loads(requests.write(message))
    except (requests.Unreadable, ValueError):
        assert found is None
        return
    assert json.loads(stamp_json(body, "create_run", BOB, context)) == expected
    assert context.claimed == claimed


def test_what_mlflows_client_sends_for_a_new_run_is_plain() -> None:
    body = b'{"experiment_id": "1", "user_id": "eve", "start_time": 5, "tags": [{"key": "k", "value": "v"}], "run_name": "r"}'
    assert plain.run(json.loads(body), body) is not None
