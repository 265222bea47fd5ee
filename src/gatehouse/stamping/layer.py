"""Whatever MLflow records as owner or author is the verified identity, not what the client says.

For each operation that records a person, :data:`STAMPS` tells which fields of its request carry the name. The
layer reads the request's JSON (or OTLP spans), puts the identity there, and keeps a different name that the
client gave in the tag ``gatehouse.claimed_user``. Writes of the tag ``mlflow.user`` that come later become
writes of that tag, and its deletion is refused, so the first stamp stays.

Where MLflow takes the author from its own login (review queues, jobs, MCP servers, gateway calls), the
identity is given to it there: see :func:`tell_flask` and ``state["username"]``.
"""

from __future__ import annotations

import asyncio
import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from gatehouse.pipeline.body import replace_body
from gatehouse.pipeline.responses import error_response, send_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Send

    from gatehouse.pipeline.context import Context, Handler

#: MLflow's own tag for who made a thing (mlflow/utils/mlflow_tags.py).
USER_TAG = "mlflow.user"
#: The tag that keeps what the client claimed to be.
CLAIMED_TAG = "gatehouse.claimed_user"
#: Names of users that MLflow's gateway writes into traces, and its UI and budgets read.
_AUTH_METADATA = ("mlflow.auth.username", "mlflow.auth.userId")

#: A larger body is parsed beside the event loop, not on it.
_LARGE = 256 * 1024

#: Who is served now, for MLflow's Flask side; threads that serve the request inherit it.
_current: ContextVar[str | None] = ContextVar("gatehouse_identity", default=None)

Document = dict[str, Any]


class Refused(Exception):
    """The request can't be stamped; the text says why."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


# --- Fields of a request ---------------------------------------------------------------------------------
# MLflow reads requests with protobuf, which takes a field's name as `user_id` and as `userId`.


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.title() for word in rest)


def _pop(document: Document, name: str) -> Any:
    """Remove a field under both of its names, and return its value."""
    value = document.pop(name, None)
    other = document.pop(_camel(name), None) if _camel(name) != name else None
    return value if value is not None else other


def _get(document: Document, name: str) -> Any:
    value = document.get(name)
    return value if value is not None else document.get(_camel(name))


def _claim(value: Any, user: str) -> str | None:
    """Return what the client claimed to be, if it isn't what it is."""
    return value if isinstance(value, str) and value and value != user else None


def _set_first(document: Document, name: str, value: Any) -> None:
    """Set a field in the first place.

    MLflow goes on with what it has read when it meets a field that it can't read; so what matters comes
    first.
    """
    rest = {key: kept for key, kept in document.items() if key not in {name, _camel(name)}}
    document.clear()
    document[name] = value
    document.update(rest)


def _field(name: str) -> Callable[[Document, str], str | None]:
    """Return a stamp that sets a field."""

    def stamp(document: Document, user: str) -> str | None:
        claimed = _claim(_pop(document, name), user)
        _set_first(document, name, user)
        return claimed

    return stamp


def _tag_list(document: Document, user: str, *, owner: bool, name: str = "tags") -> str | None:
    """Stamp a list of ``{"key", "value"}``; with ``owner``, add the tag of the owner."""
    tags = _get(document, name)
    if tags is None:
        tags = []
    if not isinstance(tags, list):
        raise Refused(f"The field {name} isn't a list.")
    claimed = None
    kept = [{"key": USER_TAG, "value": user}] if owner else []
    for tag in tags:
        if isinstance(tag, dict) and tag.get("key") == USER_TAG:
            claimed = _claim(tag.get("value"), user) or claimed
        else:
            kept.append(tag)
    if claimed is not None:
        kept = [tag for tag in kept if not (isinstance(tag, dict) and tag.get("key") == CLAIMED_TAG)]
        kept.append({"key": CLAIMED_TAG, "value": claimed})
    if kept or tags:
        _set_first(document, name, kept)
    return claimed


def _tag_map(tags: Document, user: str, *, owner: bool) -> str | None:
    """Stamp a mapping of tags."""
    claimed = _claim(tags.pop(USER_TAG, None), user)
    if owner:
        _set_first(tags, USER_TAG, user)
    if claimed is not None:
        tags[CLAIMED_TAG] = claimed
    return claimed


def _owner_tag(document: Document, user: str) -> str | None:
    return _tag_list(document, user, owner=True)


def _late_tags(document: Document, user: str) -> str | None:
    return _tag_list(document, user, owner=False)


def _late_tag(document: Document, user: str) -> str | None:
    """Rename a single ``{"key", "value"}`` write of the owner's tag."""
    if document.get("key") != USER_TAG:
        return None
    document["key"] = CLAIMED_TAG
    return _claim(document.get("value"), user)


def _delete_tag(document: Document, user: str) -> str | None:  # noqa: ARG001 - a stamp
    _refuse_deletion(document.get("key"))
    return None


def _refuse_deletion(key: Any) -> None:
    if key == USER_TAG:
        raise Refused(f"The tag {USER_TAG} says who made this; it can't be deleted.", 403)


def _run(document: Document, user: str) -> str | None:
    """``user_id`` and the tag of a new run."""
    claimed = _field("user_id")(document, user)
    by_tag = _owner_tag(document, user)
    if claimed is not None and by_tag is None:
        document["tags"].append({"key": CLAIMED_TAG, "value": claimed})
    return by_tag or claimed


def _assessment(document: Document, user: str) -> str | None:
    """A person's feedback is that of the person; a judge's or a program's keeps its name."""
    assessment = _get(document, "assessment")
    return _assessment_source(assessment, user) if isinstance(assessment, dict) else None


def _assessment_source(assessment: Document, user: str) -> str | None:
    source = _get(assessment, "source")
    # 1 is HUMAN (assessments.proto); protobuf takes the number too.
    if not isinstance(source, dict) or str(_get(source, "source_type")).upper() not in {"HUMAN", "1"}:
        return None
    claimed = _claim(_pop(source, "source_id"), user)
    source["source_id"] = user
    if claimed is not None:
        metadata = assessment.setdefault("metadata", {})
        if isinstance(metadata, dict):
            metadata[CLAIMED_TAG] = claimed
    return claimed


def _trace_v3(document: Document, user: str) -> str | None:
    """A whole trace: its metadata name the owner, its tags don't."""
    trace = _get(document, "trace")
    info = _get(trace, "trace_info") if isinstance(trace, dict) else None
    if not isinstance(info, dict):
        return None  # MLflow refuses it
    claimed = None
    for name, owner in (("tags", False), ("trace_metadata", True)):
        values = _get(info, name)
        if values is None:
            values = {}
        if not isinstance(values, dict):
            raise Refused(f"The field {name} isn't a mapping.")
        if values or owner:
            claimed = _tag_map(values, user, owner=owner) or claimed
            for forged in _AUTH_METADATA:
                values.pop(forged, None)
            _set_first(info, name, values)
    assessments = _get(info, "assessments")
    for assessment in assessments if isinstance(assessments, list) else []:
        if isinstance(assessment, dict):
            _assessment_source(assessment, user)
    return claimed


def _trace_v2(document: Document, user: str, *, owner: bool) -> str | None:
    metadata = _get(document, "request_metadata")
    for pair in list(metadata) if isinstance(metadata, list) else []:
        if isinstance(pair, dict) and pair.get("key") in _AUTH_METADATA:
            metadata.remove(pair)
    claimed = _tag_list(document, user, owner=owner, name="request_metadata")
    return _tag_list(document, user, owner=False) or claimed


def _start_trace_v2(document: Document, user: str) -> str | None:
    return _trace_v2(document, user, owner=True)


def _end_trace_v2(document: Document, user: str) -> str | None:
    return _trace_v2(document, user, owner=False)


def _embedded(document: Document, name: str, change: Callable[[Any], str | None], empty: Any = None) -> str | None:
    """Stamp JSON that is a text in the JSON."""
    text = _pop(document, name)
    try:
        value = json.loads(text) if isinstance(text, str) and text else empty
    except (ValueError, RecursionError):
        raise Refused(f"The field {name} isn't JSON.") from None
    if value is None:
        if text is not None:
            document[name] = text
        return None
    claimed = change(value)
    document[name] = json.dumps(value)
    return claimed


def _dataset(document: Document, user: str) -> str | None:
    """The tags of an evaluation dataset, whose ``mlflow.user`` becomes its ``created_by``."""
    _field("created_by")(document, user)
    return _embedded(document, "tags", lambda tags: _mapping(tags, user, owner=True), empty={})


def _dataset_tags(document: Document, user: str) -> str | None:
    return _embedded(document, "tags", lambda tags: _mapping(tags, user, owner=False))


def _mapping(tags: Any, user: str, *, owner: bool) -> str | None:
    return _tag_map(tags, user, owner=owner) if isinstance(tags, dict) else None


def _dataset_records(document: Document, user: str) -> str | None:
    """The records of an evaluation dataset, each with tags of its own."""
    _field("updated_by")(document, user)

    def change(records: Any) -> str | None:
        claimed = None
        for record in records if isinstance(records, list) else []:
            if isinstance(record, dict):
                tags = record.get("tags")
                if tags is None:
                    tags = record["tags"] = {}
                claimed = _mapping(tags, user, owner=True) or claimed
        return claimed

    return _embedded(document, "records", change)


#: Operation → how its request is stamped. Each returns what the client claimed to be, if that was something
#: else.
STAMPS: Mapping[str, Callable[[Document, str], str | None]] = {
    "attach_model_to_gateway_endpoint": _field("created_by"),
    "create_assessment": _assessment,
    "create_budget_policy": _field("created_by"),
    "create_dataset": _dataset,
    "create_experiment": _owner_tag,
    "create_gateway_endpoint": _field("created_by"),
    "create_gateway_endpoint_binding": _field("created_by"),
    "create_gateway_model_definition": _field("created_by"),
    "create_gateway_secret": _field("created_by"),
    "create_issue": _field("created_by"),
    "create_logged_model": _owner_tag,
    "create_model_version": _owner_tag,
    "create_registered_model": _owner_tag,
    "create_review_queue": _field("created_by"),
    "create_run": _run,
    "delete_experiment_tag": _delete_tag,
    "delete_model_version_tag": _delete_tag,
    "delete_registered_model_tag": _delete_tag,
    "delete_tag": _delete_tag,
    "delete_trace_tag": _delete_tag,
    "delete_trace_tag_v3": _delete_tag,
    "deprecated_end_trace_v2": _end_trace_v2,
    "deprecated_start_trace_v2": _start_trace_v2,
    "log_batch": _late_tags,
    # MLflow fails with any tag here.
    "serve_create_promptlab_run": _field("user_id"),
    "set_dataset_tags": _dataset_tags,
    "set_experiment_tag": _late_tag,
    "set_logged_model_tags": _late_tags,
    "set_model_version_tag": _late_tag,
    "set_registered_model_tag": _late_tag,
    "set_review_queue_item_status": _field("completed_by"),
    "set_tag": _late_tag,
    "set_trace_tag": _late_tag,
    "set_trace_tag_v3": _late_tag,
    "start_trace_v3": _trace_v3,
    "update_assessment": _assessment,
    "update_budget_policy": _field("updated_by"),
    "update_gateway_endpoint": _field("updated_by"),
    "update_gateway_model_definition": _field("updated_by"),
    "update_gateway_secret": _field("updated_by"),
    "upsert_dataset_records": _dataset_records,
}

#: Operations with spans in their body, not JSON of MLflow's own.
SPANS = "export_traces"
#: Operations whose body isn't MLflow's JSON (artifacts, calls of language models): it streams through
#: untouched.
OPAQUE = frozenset(
    {
        "anthropic_passthrough_messages",
        "chat_completions",
        "gemini_passthrough_generate_content",
        "gemini_passthrough_stream_generate_content",
        "invocations",
        "openai_passthrough_chat",
        "openai_passthrough_embeddings",
        "openai_passthrough_responses",
        "openai_passthrough_responses_compact",
        "raw_proxy",
        "serve_gateway_proxy",
        "serve_upload_artifact",
        "typesafe_passthrough_system_one",
        "upload_artifact",
    }
)
#: Operations that are frequent and need a stamp only if they mention the owner's tag.
_LATE = frozenset({"log_batch", "set_experiment_tag", "set_logged_model_tags", "set_model_version_tag", "set_tag"})


class StampingLayer:
    """Layer: puts the identity into what is recorded, and the names of things into the audit record.

    :param app: the next layer.
    """

    def __init__(self, app: Handler) -> None:
        self._app = app

    async def __call__(self, context: Context, send: Send) -> None:
        """Serve one request."""
        email = context.who.email
        # MLflow's FastAPI routes take the author from here.
        context.scope = {**context.scope, "state": {**context.scope.get("state", {}), "username": email}}
        _current.set(email)  # each request is a task, and so a context, of its own
        operation = context.operation
        if context.is_write and operation is not None and operation not in OPAQUE:
            try:
                await self._stamp(context, operation, email)
            except Refused as error:
                context.refusal = str(error)
                code = "PERMISSION_DENIED" if error.status == 403 else "INVALID_PARAMETER_VALUE"
                await send_all(send, error_response(error.status, code, str(error)))
                return
        await self._app(context, send)

    async def _stamp(self, context: Context, operation: str, user: str) -> None:
        """Make the request what MLflow shall see."""
        if operation in {"delete_dataset_tag", "delete_logged_model_tag"}:
            variables = context.route.variables if context.route else {}
            _refuse_deletion(variables.get("key", variables.get("tag_key")))
        body = context.body or b""
        if operation == SPANS:
            from gatehouse.stamping.spans import UnreadableSpans, stamp_spans

            headers = dict(reversed(context.scope["headers"]))  # the first of each name counts, as in Starlette
            context.add_objects([("experiment_id", headers.get(b"x-mlflow-experiment-id", b"").decode("latin-1"))])
            try:
                body, context.claimed = await asyncio.to_thread(stamp_spans, body, headers, user)
            except UnreadableSpans as error:
                raise Refused(str(error)) from None
            replace_body(context, body, frozenset({b"content-encoding"}))
            return
        if len(body) > _LARGE:
            body = await asyncio.to_thread(self._stamp_json, body, operation, user, context)
        else:
            body = self._stamp_json(body, operation, user, context)
        replace_body(context, body)

    def _stamp_json(self, body: bytes, operation: str, user: str, context: Context) -> bytes:
        """Return a JSON body with the identity in it."""
        stamp = STAMPS.get(operation)
        document = _parse(body)
        if isinstance(document, dict):
            context.add_objects(document.items())
            if stamp is None or (operation in _LATE and not _mentions_user(body)):
                return body
            context.claimed = stamp(document, user)
            return json.dumps(document).encode()
        if stamp is not None and body:
            raise Refused("The request's body isn't a JSON object.")
        return body


def _mentions_user(body: bytes) -> bool:
    """Return whether the tag of the owner can be in a body, in any way that JSON can spell it.

    Its letters can be written as they are, as ``\\u`` escapes, or in UTF-16 or UTF-32, which have NUL bytes.
    """
    return USER_TAG.encode() in body or b"\\u" in body or b"\0" in body


def _parse(body: bytes) -> Any:
    """Return the JSON of a body as MLflow reads it, or None."""
    try:
        document = json.loads(body)
        # Old clients encode twice, and MLflow decodes twice.
        return json.loads(document) if isinstance(document, str) else document
    except (ValueError, RecursionError):
        return None


def tell_flask(flask_app: Any) -> None:
    """Let MLflow's Flask application know who is served, where its own login would put the name."""

    def authenticated_user() -> None:
        from flask import g

        g.mlflow_authenticated_user = _current.get()

    flask_app.before_request(authenticated_user)
