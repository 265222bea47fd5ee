"""`logs`: the newest entries of the service and of its schema job."""

from __future__ import annotations

import argparse
import json

from deploy import commands
from deploy.session import Session


def main(session: Session, arguments: argparse.Namespace) -> int:
    """Print the entries, oldest first."""
    argv = commands.logs(session.config, severity=arguments.severity, freshness=arguments.since, limit=arguments.limit)
    for entry in reversed(session.gcloud.json(argv) or []):
        payload = (
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
            payload = f"{request.get('requestMethod')} {request.get('requestUrl', '').split('?')[0]} {request.get('status')} {payload}"
        session.say(f"{entry['timestamp'][:23]} {entry.get('severity', 'DEFAULT'):8} {payload}")
    return 0
