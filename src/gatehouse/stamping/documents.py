"""Requests that MLflow reads as plain JSON:

the fields of its own handlers that have no message class, and of FastAPI's models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gatehouse.stamping.people import CLAIMED_TAG, USER_TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Document = dict[str, Any]


def _author(document: Document, user: str) -> str | None:
    claimed = document.get("user_id")
    document["user_id"] = user
    return claimed if isinstance(claimed, str) and claimed not in {"", user} else None


def _job(document: Document, user: str) -> str | None:
    """A job acts in the name that its parameters give (mlflow/genai/scorers/job.py)."""
    parameters = document.get("params")
    if not isinstance(parameters, dict) or "username" not in parameters:
        return None
    claimed = parameters["username"]
    parameters["username"] = user
    return claimed if isinstance(claimed, str) and claimed not in {"", user} else None


def _later_tag(document: Document, user: str) -> str | None:
    if document.get("key") != USER_TAG:
        return None
    document["key"] = CLAIMED_TAG
    claimed = document.get("value")
    return claimed if isinstance(claimed, str) and claimed not in {"", user} else None


#: Operation → how its JSON is stamped; returns what the client claimed to be, if that was something else.
DOCUMENTS: Mapping[str, Callable[[Document, str], str | None]] = {
    # MLflow fails with any tag here.
    "serve_create_promptlab_run": _author,
    "set_mcp_server_tag": _later_tag,
    "set_mcp_server_version_tag": _later_tag,
    "submit_job": _job,
}
