"""`logs`: the newest entries of the service and of its jobs."""

from __future__ import annotations

import argparse
import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

from deploy.config import Config
from deploy.session import Session, Stop

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Print the entries, oldest first."""
    span = re.fullmatch(r"(\d+)([smhdw])", arguments.since)
    if span is None:
        raise Stop(f"--since {arguments.since}: a number and a unit, such as 30m, 1h or 2d")
    since = datetime.now(timezone.utc) - timedelta(seconds=int(span[1]) * UNITS[span[2]])
    body: dict[str, Any] = {
        "resourceNames": [f"projects/{session.config.project}"],
        "filter": f'{query(session.config, arguments.severity)} AND timestamp>="{since:%Y-%m-%dT%H:%M:%SZ}"',
        "orderBy": "timestamp desc",
        "pageSize": arguments.limit,
    }
    answer = session.google.call("POST", "https://logging.googleapis.com/v2/entries:list", body)
    for entry in reversed(answer.get("entries", [])[: arguments.limit]):
        session.say(f"{entry['timestamp'][:23]} {entry.get('severity', 'DEFAULT'):8} {text(entry)}")
    return 0


def query(config: Config, severity: str) -> str:
    """Return the filter of everything that the environment's service and jobs wrote."""
    names = config.names
    return (
        f'(resource.labels.service_name="{names.service}" OR resource.labels.job_name=~"^{re.escape(names.service)}-")'
        f" AND severity>={severity}"
    )


def text(entry: dict[str, Any]) -> str:
    """Return what an entry says, on one line."""
    payload: Any = (
        entry.get("textPayload")
        or entry.get("jsonPayload")
        or entry.get("protoPayload", {}).get("status", {}).get("message")
        or ""
    )
    if not isinstance(payload, str):
        payload = payload.get("message") or json.dumps(payload, ensure_ascii=False)
    request = entry.get("httpRequest")
    if request:
        # Without the query: an OAuth callback's carries the code.
        url = request.get("requestUrl", "").split("?")[0]
        payload = f"{request.get('requestMethod')} {url} {request.get('status')} {payload}"
    return str(payload)
