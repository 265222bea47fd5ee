"""Cloud Logging: the entries that the emulated services wrote."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from tests.deploy.emulator.core import Call, now, rest


@dataclass
class Logs:
    """The project's log entries, newest first; `filters` are those that were asked for."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)

    def write(self, text: str, *, service: str = "", job: str = "", execution: str = "") -> None:
        """Add an entry of a Cloud Run service, or of a job's execution; a line of JSON becomes a structured one, as there."""
        resource = {"type": "cloud_run_revision", "labels": {"service_name": service}}
        if job:
            resource = {"type": "cloud_run_job", "labels": {"job_name": job}}
        try:
            payload: dict[str, Any] = {"jsonPayload": dict(json.loads(text))}
        except (ValueError, TypeError):
            payload = {"textPayload": text}
        self.entries.insert(
            0,
            {
                "timestamp": now(),
                **payload,
                "resource": resource,
                "labels": {"run.googleapis.com/execution_name": execution} if execution else {},
                "insertId": str(len(self.entries)),
                "logName": "projects/p/logs/run.googleapis.com%2Fstdout",
            },
        )


@rest("logging.entries.list", permission="logging.logEntries.list")
def list_entries(call: Call) -> Any:
    call.emulator.logs.filters.append(call.body.get("filter", ""))
    entries = call.emulator.logs.entries
    # Of the language of filters, what narrows to an execution's lines.
    if execution := re.search(r'execution_name"="([^"]+)"', call.body.get("filter", "")):
        entries = [e for e in entries if execution[1] in e["labels"].values()]
    if message := re.search(r'jsonPayload\.message="([^"]+)"', call.body.get("filter", "")):
        entries = [e for e in entries if e.get("jsonPayload", {}).get("message") == message[1]]
    return {"entries": entries[: int(call.body.get("pageSize", 100))]}
