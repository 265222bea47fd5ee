"""Traces: from MLflow's SDK and from any OpenTelemetry application, searched, judged and shown."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import StatusCode

from local.provider import email
from tests.features.conftest import TIMEOUT_S, answer_of
from tests.support import Gate


def traced(sdk: Any, **tags: str) -> str:
    """Make a trace of two spans with MLflow's SDK; return its id when it is stored."""

    @sdk.trace(name="inner", span_type="RETRIEVER")  # type: ignore[untyped-decorator]
    def inner(x: int) -> int:
        return x + 1

    @sdk.trace(name="outer")  # type: ignore[untyped-decorator]
    def outer(x: int) -> int:
        sdk.update_current_trace(tags=tags)
        return 2 * int(inner(x))

    assert outer(20) == 42
    sdk.flush_trace_async_logging()
    return str(sdk.get_last_active_trace_id())


@pytest.mark.usefixtures("experiment")
def test_a_traced_function_is_there_with_its_spans_inputs_and_outputs(sdk: Any, client: Any) -> None:
    trace = client.get_trace(traced(sdk, color="red"))
    spans = {span.name: span for span in trace.data.spans}
    assert set(spans) == {"outer", "inner"}
    assert (spans["outer"].inputs, spans["outer"].outputs) == ({"x": 20}, 42)
    assert spans["inner"].parent_id == spans["outer"].span_id
    assert trace.info.tags["color"] == "red"
    assert trace.info.tags["mlflow.user"] == email("bob")
    assert str(trace.info.state) == "OK"


@pytest.mark.usefixtures("alice")
def test_traces_are_found_tagged_linked_to_a_run_and_deleted_by_an_administrator_alone(
    gate: Gate, sdk: Any, client: Any, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import RestException

    first, second = traced(sdk, color="red"), traced(sdk, color="blue")
    found = client.search_traces(locations=[experiment], filter_string="tag.color = 'blue' AND trace.status = 'OK'")
    assert [one.info.trace_id for one in found] == [second]
    client.set_trace_tag(first, "reviewed", "yes")
    client.delete_trace_tag(first, "color")
    tags = client.get_trace(first).info.tags
    assert tags["reviewed"] == "yes"
    assert "color" not in tags
    with sdk.start_run() as run:
        client.link_traces_to_run([first], run.info.run_id)
    linked = client.search_traces(locations=[experiment], filter_string=f"attributes.run_id = '{run.info.run_id}'")
    assert [one.info.trace_id for one in linked] == [first]
    with pytest.raises(RestException) as refusal:
        client.delete_traces(experiment, trace_ids=[second])
    assert refusal.value.error_code == "PERMISSION_DENIED"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", gate.provider.token("alice"))
    assert client.delete_traces(experiment, trace_ids=[second]) == 1
    left = client.search_traces(locations=[experiment])
    assert [one.info.trace_id for one in left] == [first]


def test_a_judgement_of_a_trace_is_logged_changed_and_found(sdk: Any, client: Any, experiment: str) -> None:
    trace_id = traced(sdk)
    human = sdk.entities.AssessmentSource("HUMAN", "somebody else")
    given = sdk.log_feedback(trace_id=trace_id, name="helpful", value=True, source=human)
    sdk.log_expectation(trace_id=trace_id, name="answer", value="42")
    sdk.update_assessment(trace_id, given.assessment_id, sdk.entities.Feedback(name="helpful", value=False))
    assert sdk.get_assessment(trace_id, given.assessment_id).value is False
    judged = {one.name: one for one in client.get_trace(trace_id).info.assessments}
    assert {name: one.value for name, one in judged.items()} == {"helpful": False, "answer": "42"}
    assert {one.source.source_id for one in judged.values()} == {email("bob")}
    found = client.search_traces(locations=[experiment], filter_string="feedback.helpful = 'false'")
    assert [one.info.trace_id for one in found] == [trace_id]
    sdk.delete_assessment(trace_id, given.assessment_id)
    assert [one.name for one in client.get_trace(trace_id).info.assessments] == ["answer"]


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
def test_spans_of_the_opentelemetry_exporter_are_a_trace_of_whoever_sent_them(
    gate: Gate, client: Any, experiment: str, compression: Compression
) -> None:
    exporter = OTLPSpanExporter(
        endpoint=f"{gate.url}/v1/traces",
        headers={"Authorization": f"Bearer {gate.provider.token('bob')}", "x-mlflow-experiment-id": experiment},
        compression=compression,
        timeout=TIMEOUT_S,
    )
    provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")
    with (
        tracer.start_as_current_span("order", attributes={"items": 3}) as order,
        tracer.start_as_current_span("pay") as pay,
    ):
        pay.add_event("declined", {"reason": "expired"})
        pay.set_status(StatusCode.ERROR, "card expired")
    provider.shutdown()
    trace = client.get_trace(f"tr-{order.get_span_context().trace_id:032x}")
    spans = {span.name: span for span in trace.data.spans}
    assert set(spans) == {"order", "pay"}
    assert spans["order"].attributes["items"] == 3
    assert spans["pay"].parent_id == spans["order"].span_id
    assert [event.name for event in spans["pay"].events] == ["declined"]
    assert (str(spans["pay"].status.status_code.value), spans["pay"].status.description) == ("ERROR", "card expired")
    assert trace.info.tags["mlflow.user"] == email("bob")


def test_the_ui_gets_a_traces_spans_and_the_figures_of_many(
    gate: Gate, bob: requests.Session, sdk: Any, experiment: str
) -> None:
    trace_id = traced(sdk)
    base = f"{gate.url}/ajax-api/3.0/mlflow"
    shown = answer_of(bob.get(f"{base}/traces/get", params={"trace_id": trace_id}, timeout=TIMEOUT_S))
    assert {span["name"] for span in shown["trace"]["spans"]} == {"outer", "inner"}
    artifact = answer_of(bob.get(f"{base}/get-trace-artifact", params={"request_id": trace_id}, timeout=TIMEOUT_S))
    assert {span["name"] for span in artifact["spans"]} == {"outer", "inner"}
    query = {
        "experiment_ids": [experiment],
        "view_type": "TRACES",
        "metric_name": "trace_count",
        "aggregations": [{"aggregation_type": "COUNT"}],
    }
    figures = answer_of(bob.post(f"{base}/traces/metrics", json=query, timeout=TIMEOUT_S))
    assert [one["values"] for one in figures["data_points"]] == [{"COUNT": 1.0}]
