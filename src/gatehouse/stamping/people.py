"""Which fields of MLflow's requests name a person, and what becomes of each: the one table of verdicts.

A request is stamped as the *message* that MLflow's handler would parse, so there is one spelling of everything: no
alias, no ``camelCase``, no number for an enum, no JSON in JSON. tests/access/test_people.py walks every field of every
request that writes, and fails for one without a verdict: stamped here, listed in :data:`NOBODY`, or of a name that can
be nobody's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gatehouse.upstream.requests import Message

#: MLflow's own tag for who made a thing (mlflow/utils/mlflow_tags.py).
USER_TAG = "mlflow.user"
#: The tag that keeps what the client claimed to be.
CLAIMED_TAG = "gatehouse.claimed_user"
#: An assessment's metadata for who changed it last; its source stays whoever gave it.
UPDATED_BY = "gatehouse.updated_by"
ARCHIVAL_FAILURE = "mlflow.trace.archivalFailure"
#: Tags of traces by which MLflow finds its own data (mlflow/utils/mlflow_tags.py, IMMUTABLE_TAGS): nobody sets them,
#: neither as the trace is made nor later. MLflow's handlers refuse some of them in some ways.
RESERVED_TAGS = frozenset(
    {
        ARCHIVAL_FAILURE,
        "mlflow.artifactLocation",
        "mlflow.trace.archiveLocation",
        "mlflow.trace.spansLocation",
    }
)
#: Names of users that MLflow's gateway writes into traces, and its UI and budgets read.
_AUTH_METADATA = ("mlflow.auth.username", "mlflow.auth.userId")
_FORGED = RESERVED_TAGS.union(_AUTH_METADATA)
#: AssessmentSource.SourceType (assessments.proto) of what a person says: HUMAN, and what doesn't say what it is.
_PERSONS = (1, 0)


class Refused(Exception):
    """The request can't be stamped; the text says why."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Stamp:
    """What is done to one operation's message.

    ``fields`` are the paths of the fields that it answers for. ``apply`` puts the identity there, and returns what the
    client claimed to be, if that was something else.
    """

    fields: tuple[str, ...]
    apply: Callable[[Message, str], str | None]
    #: Whether nothing need be done for a body in which USER_TAG can't be: these operations are frequent.
    only_tags: bool = False


def _claim(value: Any, user: str) -> str | None:
    return value if isinstance(value, str) and value and value != user else None


def _author(name: str) -> Stamp:
    """The field of an author or editor."""

    def apply(message: Message, user: str) -> str | None:
        claimed = _claim(getattr(message, name), user)
        setattr(message, name, user)
        return claimed

    return Stamp((name,), apply)


# --- Tags ----------------------------------------------------------------------------------------------------


def _stamp_pairs(pairs: Any, user: str, *, owner: bool) -> str | None:
    """Stamp a repeated field of ``key`` and ``value``; with ``owner``, make sure that the owner's tag is there."""
    kept = [(pair.key, pair.value) for pair in pairs]
    claims = [claim for key, value in kept if key == USER_TAG and (claim := _claim(value, user))]
    if not owner and all(key != USER_TAG for key, _ in kept):
        return None
    gone = {USER_TAG, CLAIMED_TAG} if claims else {USER_TAG}
    kept = [(key, value) for key, value in kept if key not in gone]
    if owner:
        kept.append((USER_TAG, user))
    if claims:
        kept.append((CLAIMED_TAG, claims[-1]))
    del pairs[:]
    for key, value in kept:
        pairs.add(key=key, value=value)
    return claims[-1] if claims else None


def _stamp_map(tags: Any, user: str, *, owner: bool) -> str | None:
    """Stamp a mapping of tags: a message's, or one of JSON."""
    claimed = _claim(tags.pop(USER_TAG), user) if USER_TAG in tags else None
    if owner:
        tags[USER_TAG] = user
    if claimed is not None:
        tags[CLAIMED_TAG] = claimed
    return claimed


def _owner_tags(message: Message, user: str) -> str | None:
    return _stamp_pairs(message.tags, user, owner=True)


def _later_tags(message: Message, user: str) -> str | None:
    return _stamp_pairs(message.tags, user, owner=False)


def _later_tag(message: Message, user: str) -> str | None:
    """A write of the owner's tag that comes later is a write of the tag of claims."""
    if message.key != USER_TAG:
        return None
    message.key = CLAIMED_TAG
    return _claim(message.value, user)


def refuse_deletion(key: object) -> None:
    """Raise Refused if this is the key of the tag of the owner."""
    if key == USER_TAG:
        raise Refused(f"The tag {USER_TAG} says who made this; it can't be deleted.", 403)


def _deleted_tag(message: Message, _user: str) -> None:
    refuse_deletion(message.key)


def _refuse_reserved(key: str) -> None:
    if key in RESERVED_TAGS:
        raise Refused(f"The tag {key} is MLflow's own: it says where the trace's data is.", 403)


def _later_trace_tag(message: Message, user: str) -> str | None:
    _refuse_reserved(message.key)
    return _later_tag(message, user)


def _deleted_trace_tag(message: Message, _user: str) -> None:
    if message.key != ARCHIVAL_FAILURE:  # deleting it is how one has MLflow try again
        _refuse_reserved(message.key)
    refuse_deletion(message.key)


_OWNER_TAGS = Stamp(("tags",), _owner_tags)
_LATER_TAGS = Stamp(("tags",), _later_tags, only_tags=True)
_LATER_TAG = Stamp(("key", "value"), _later_tag, only_tags=True)
_DELETED_TAG = Stamp(("key",), _deleted_tag)
_LATER_TRACE_TAG = Stamp(("key", "value"), _later_trace_tag)
_DELETED_TRACE_TAG = Stamp(("key",), _deleted_trace_tag)


# --- Runs, traces, feedback ----------------------------------------------------------------------------------


def _run(message: Message, user: str) -> str | None:
    by_field = _claim(message.user_id, user)
    message.user_id = user
    by_tag = _owner_tags(message, user)
    if by_field is not None and by_tag is None:
        message.tags.add(key=CLAIMED_TAG, value=by_field)
    return by_tag or by_field


def _stamp_assessment(assessment: Message, user: str) -> str | None:
    """A person's feedback is that of the person; a judge's or a program's keeps its name."""
    if UPDATED_BY in assessment.metadata:
        del assessment.metadata[UPDATED_BY]
    if assessment.source.source_type not in _PERSONS:
        return None
    claimed = _claim(assessment.source.source_id, user)
    # What has a source of no type must not become a person's by this.
    if assessment.HasField("source"):
        assessment.source.source_id = user
    if claimed is not None:
        assessment.metadata[CLAIMED_TAG] = claimed
    return claimed


def _created_assessment(message: Message, user: str) -> str | None:
    return _stamp_assessment(message.assessment, user)


def _updated_assessment(message: Message, user: str) -> str | None:
    """The source stays, whoever changes the value: so say who did."""
    assessment = message.assessment
    claimed = _stamp_assessment(assessment, user)
    if "metadata" not in message.update_mask.paths:
        assessment.metadata.clear()
        message.update_mask.paths.append("metadata")
    assessment.metadata[UPDATED_BY] = user
    return claimed


def _trace(message: Message, user: str) -> str | None:
    """A whole trace: its metadata name the owner, its tags don't."""
    info = message.trace.trace_info
    by_tags = _stamp_map(info.tags, user, owner=False)
    claimed = _stamp_map(info.trace_metadata, user, owner=True) or by_tags
    for values in (info.tags, info.trace_metadata):
        for forged in _FORGED:
            values.pop(forged, None)
    for assessment in info.assessments:
        _stamp_assessment(assessment, user)
    return claimed


def _old_trace(message: Message, user: str, *, owner: bool) -> str | None:
    for pairs in (message.request_metadata, message.tags):
        kept = [pair for pair in pairs if pair.key not in _FORGED]
        if len(kept) < len(pairs):
            del pairs[:]
            pairs.extend(kept)
    claimed = _stamp_pairs(message.request_metadata, user, owner=owner)
    return _stamp_pairs(message.tags, user, owner=False) or claimed


_ASSESSMENT = ("assessment.source.source_id", "assessment.source.source_type", "assessment.metadata")
_TRACE = (
    "trace.trace_info.tags",
    "trace.trace_info.trace_metadata",
    "trace.trace_info.assessments.source.source_id",
    "trace.trace_info.assessments.source.source_type",
    "trace.trace_info.assessments.metadata",
)


# --- Datasets, whose tags and records are JSON in a text ---------------------------------------------------------


def _embedded(message: Message, name: str, kind: type, empty: Any = None) -> Any:
    """Return the JSON in a field of text, or ``empty`` if there is none.

    Raises:
        Refused: if it isn't JSON of that kind.
    """
    text = getattr(message, name)
    try:
        value = json.loads(text) if text else empty
    except (ValueError, RecursionError):
        raise Refused(f"The field {name} isn't JSON.") from None
    if value is not None and not isinstance(value, kind):
        raise Refused(f"The field {name} isn't JSON of the right kind.")
    return value


def _dataset(message: Message, user: str) -> str | None:
    """The tags of an evaluation dataset, whose ``mlflow.user`` becomes its ``created_by``."""
    by_field = _claim(message.created_by, user)
    message.created_by = user
    tags = _embedded(message, "tags", dict, {})
    claimed = _stamp_map(tags, user, owner=True) or by_field
    message.tags = json.dumps(tags)
    return claimed


def _dataset_tags(message: Message, user: str) -> str | None:
    tags = _embedded(message, "tags", dict)
    if tags is None:
        return None
    claimed = _stamp_map(tags, user, owner=False)
    message.tags = json.dumps(tags)
    return claimed


def _dataset_records(message: Message, user: str) -> str | None:
    """The records of an evaluation dataset, each with tags, and perhaps a source, of its own."""
    claimed = _claim(message.updated_by, user)
    message.updated_by = user
    records = _embedded(message, "records", list)
    if records is None:
        return claimed
    for record in records:
        if not isinstance(record, dict):
            raise Refused("A record of the dataset isn't an object.")
        tags = record.get("tags")
        if tags is None:
            tags = record["tags"] = {}
        if not isinstance(tags, dict):
            raise Refused("The tags of a record aren't an object.")
        by_tag, by_source = _stamp_map(tags, user, owner=True), _record_source(record, tags, user)
        claimed = by_tag or by_source or claimed
    message.records = json.dumps(records)
    return claimed


def _record_source(record: dict[str, Any], tags: dict[str, Any], user: str) -> str | None:
    """A record that a person wrote is that of the person (DatasetRecordSource: any letter case)."""
    source = record.get("source")
    if not isinstance(source, dict) or str(source.get("source_type")).upper() != "HUMAN":
        return None
    data = source.get("source_data")
    if not isinstance(data, dict):
        data = source["source_data"] = {}
    claimed = _claim(data.get("user_name"), user)
    data["user_name"] = user
    if claimed is not None:
        tags[CLAIMED_TAG] = claimed
    return claimed


# --- Review queues ---------------------------------------------------------------------------------------------


def _queue_owner(message: Message, user: str) -> None:
    """Its owner is who made it; somebody may take it over, but not put another's name there."""
    if not message.HasField("new_owner"):
        return
    if message.new_owner.strip().casefold() != user.casefold():
        text = f"A review queue is owned by whoever takes it over by a request of their own, not by {user}'s."
        raise Refused(text, 403)
    message.new_owner = user


#: Operation → how its request is stamped.
STAMPS: Mapping[str, Stamp] = {
    "attach_model_to_gateway_endpoint": _author("created_by"),
    "create_assessment": Stamp(_ASSESSMENT, _created_assessment),
    "create_budget_policy": _author("created_by"),
    "create_dataset": Stamp(("created_by", "tags"), _dataset),
    "create_experiment": _OWNER_TAGS,
    "create_gateway_endpoint": _author("created_by"),
    "create_gateway_endpoint_binding": _author("created_by"),
    "create_gateway_model_definition": _author("created_by"),
    "create_gateway_secret": _author("created_by"),
    "create_issue": _author("created_by"),
    "create_logged_model": _OWNER_TAGS,
    "create_model_version": _OWNER_TAGS,
    "create_registered_model": _OWNER_TAGS,
    "create_review_queue": _author("created_by"),
    "create_run": Stamp(("user_id", "tags"), _run),
    "delete_experiment_tag": _DELETED_TAG,
    "delete_model_version_tag": _DELETED_TAG,
    "delete_registered_model_tag": _DELETED_TAG,
    "delete_tag": _DELETED_TAG,
    "delete_trace_tag": _DELETED_TRACE_TAG,
    "delete_trace_tag_v3": _DELETED_TRACE_TAG,
    "deprecated_end_trace_v2": Stamp(
        ("request_metadata", "tags"), lambda message, user: _old_trace(message, user, owner=False)
    ),
    "deprecated_start_trace_v2": Stamp(
        ("request_metadata", "tags"), lambda message, user: _old_trace(message, user, owner=True)
    ),
    "get_or_create_user_queue": _author("created_by"),
    "log_batch": _LATER_TAGS,
    "set_dataset_tags": Stamp(("tags",), _dataset_tags),
    "set_experiment_tag": _LATER_TAG,
    "set_logged_model_tags": _LATER_TAGS,
    "set_model_version_tag": _LATER_TAG,
    "set_registered_model_tag": _LATER_TAG,
    "set_review_queue_item_status": _author("completed_by"),
    "set_tag": _LATER_TAG,
    "set_trace_tag": _LATER_TRACE_TAG,
    "set_trace_tag_v3": _LATER_TRACE_TAG,
    "start_trace_v3": Stamp(_TRACE, _trace),
    "update_assessment": Stamp((*_ASSESSMENT, "update_mask.paths"), _updated_assessment),
    "update_budget_policy": _author("updated_by"),
    "update_gateway_endpoint": _author("updated_by"),
    "update_gateway_model_definition": _author("updated_by"),
    "update_gateway_secret": _author("updated_by"),
    "update_review_queue": Stamp(("new_owner",), _queue_owner),
    "upsert_dataset_records": Stamp(("updated_by", "records"), _dataset_records),
}

#: (operation, field) → why it needs no stamp although it holds a person's name, tags, or anything that a client likes.
NOBODY: Mapping[tuple[str, str], str] = {
    ("create_dataset", "source"): "where its records come from",
    ("create_dataset", "source_type"): "where its records come from",
    ("create_gateway_secret", "auth_config"): "a provider's settings",
    ("create_gateway_secret", "secret_value"): "a provider's key",
    ("create_prompt_optimization_job", "tags"): "the tags of a job's run; its owner is stamped as its row is written",
    ("create_review_queue", "users"): "who shall review: an assignment, not an author",
    ("create_webhook", "secret"): "a key",
    ("delete_gateway_endpoint_tag", "key"): "an endpoint's author is its created_by",
    (
        "get_or_create_user_queue",
        "user",
    ): "whose queue it is: an assignment; its author is stamped as its row is written",
    ("log_batch", "params"): "a run's parameters",
    ("log_inputs", "datasets.tags"): "the tags of a data set's use, which name no owner",
    ("log_logged_model_params", "params"): "a model's parameters",
    ("create_logged_model", "params"): "a model's parameters",
    ("set_gateway_endpoint_tag", "key"): "an endpoint's author is its created_by",
    ("start_trace_v3", "trace.spans"): "MLflow reads the trace's information alone here",
    ("update_gateway_secret", "auth_config"): "a provider's settings",
    ("update_gateway_secret", "secret_value"): "a provider's key",
    ("log_inputs", "datasets.dataset.source_type"): "where a data set comes from",
    ("update_webhook", "secret"): "a key",
    ("update_review_queue", "users"): "who shall review: an assignment, not an author",
}
