"""Cloud Logging: the entries that the emulated services wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.deploy.emulator.core import Call, now, rest


@dataclass
class Logs:
    """The project's log entries, newest first; `filters` are those that were asked for."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    filters: list[str] = field(default_factory=list)

    def write(self, text: str, *, service: str) -> None:
        """Add an entry of a Cloud Run service."""
        resource = {"type": "cloud_run_revision", "labels": {"service_name": service}}
        self.entries.insert(
            0,
            {
                "timestamp": now(),
                "textPayload": text,
                "resource": resource,
                "insertId": str(len(self.entries)),
                "logName": "projects/p/logs/run.googleapis.com%2Fstdout",
            },
        )


@rest("logging.entries.list", permission="logging.logEntries.list")
def list_entries(call: Call) -> Any:
    call.emulator.logs.filters.append(call.body.get("filter", ""))
    return {"entries": call.emulator.logs.entries[: int(call.body.get("pageSize", 100))]}
