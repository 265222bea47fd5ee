"""The author in MLflow's own rows:

what a request writes to the database names whoever sent the request, whatever wrote it.

The messages of requests are stamped before MLflow sees them (people.py). But MLflow also creates things by itself while
it serves a request (the runs of an evaluation or of issue detection, a user's review queue, the trace of a span whose
root never comes), with the name of the server's own account, "unknown", or none. So the rows are stamped once more as
SQLAlchemy writes them, and an author that is there stays. Core statements, which no such event sees, write tags of
logged models, which are stamped in the message alone. tests/access/test_people.py demands a verdict for each column
that could name a person.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from gatehouse.stamping.current import served
from gatehouse.stamping.people import USER_TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Columns of the author: set once, by whoever writes the row.
CREATED = ("created_by", "creator")
#: Columns of whoever changed the row last.
CHANGED = ("last_updated_by", "completed_by")
#: Things whose owner is one of their tags (table → relationship of the tags). A whole trace has it in its metadata too.
OWNED: Mapping[str, str] = {
    "experiments": "tags",
    "model_versions": "model_version_tags",
    "registered_models": "registered_model_tags",
    "runs": "tags",
    "trace_info": "tags",
}
#: Tables of tags, besides those whose name ends so.
TAGS = frozenset({"tags", "trace_request_metadata"})
#: What tables of tags call their two columns.
_PAIRS = (("key", "value"), ("tag_key", "tag_value"))
#: Assessments of these sources are a person's (SqlAssessments.source_type).
PERSONS = frozenset({"HUMAN", "SOURCE_TYPE_UNSPECIFIED"})


def register() -> None:
    """Stamp what this process writes from now on; MLflow's tables must be there."""
    from sqlalchemy import event
    from sqlalchemy.orm import Session

    event.listen(Session, "before_flush", _before_flush)


def _before_flush(session: Any, _context: Any, _instances: Any) -> None:
    user = served()
    if user is None:
        return
    for row in list(session.new):
        for rule in rules(row.__class__):
            rule(row, user, True)
    for row in session.dirty:
        for rule in rules(row.__class__):
            rule(row, user, False)


@cache  # as many as MLflow has tables
def rules(kind: Any) -> tuple[Callable[[Any, str, bool], None], ...]:
    """Return what is done to a new or a changed row of a class: ``rule(row, user, is_new)``."""
    table = kind.__table__.name
    columns = {column.name for column in kind.__table__.columns}
    found: list[Callable[[Any, str, bool], None]] = []
    if author := columns.intersection(CREATED if table != "runs" else ("user_id",)):
        found.append(_author(author.pop()))
    found.extend(_editor(name) for name in CHANGED if name in columns)
    if table.endswith("_tags") or table in TAGS:
        found.extend(_tag(*pair) for pair in _PAIRS if columns.issuperset(pair))
    if table == "assessments":
        found.append(_assessment)
    if table in OWNED:
        found.append(_owner(kind, OWNED[table]))
    return tuple(found)


def _before(row: Any, name: str) -> Any:
    """Return what a changed column held, or None if it isn't changed or that isn't known."""
    from sqlalchemy import inspect

    deleted = inspect(row).attrs[name].history.deleted
    return deleted[0] if deleted else None


def _author(name: str) -> Callable[[Any, str, bool], None]:
    def rule(row: Any, user: str, is_new: bool) -> None:
        if is_new:
            setattr(row, name, user)
        # A review queue may be taken over by whoever asks for it.
        elif (before := _before(row, name)) is not None and getattr(row, name) != user:
            setattr(row, name, before)

    return rule


def _editor(name: str) -> Callable[[Any, str, bool], None]:
    def rule(row: Any, user: str, _is_new: bool) -> None:
        from sqlalchemy import inspect

        if getattr(row, name) is not None and inspect(row).attrs[name].history.has_changes():
            setattr(row, name, user)

    return rule


def _tag(key: str, value: str) -> Callable[[Any, str, bool], None]:
    def rule(row: Any, user: str, is_new: bool) -> None:
        if getattr(row, key) == USER_TAG:
            before = None if is_new else _before(row, value)
            if before is not None or getattr(row, value) != user:
                setattr(row, value, before or user)

    return rule


def _assessment(row: Any, user: str, is_new: bool) -> None:
    if is_new and row.source_type in PERSONS:
        row.source_id = user


def _owner(kind: Any, relationship: str) -> Callable[[Any, str, bool], None]:
    tag = kind.__mapper__.relationships[relationship].mapper.class_

    def rule(row: Any, user: str, is_new: bool) -> None:
        if not is_new:
            return
        tags = getattr(row, relationship)
        if not any(pair.key == USER_TAG for pair in tags):
            tags.append(tag(key=USER_TAG, value=user))

    return rule
