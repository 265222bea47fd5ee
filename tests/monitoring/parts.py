"""A gate with METRICS, what takes its pushes, and what reads its figures."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import Gate, wait_for


class Receiver:
    """Takes what is pushed by OTLP over HTTP, as OpenTelemetry's collector does."""

    def __init__(self) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.requests.append(ExportMetricsServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/metrics"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def last(self, name: str) -> Any:
        """Return a metric of the newest push, or None."""
        for request in self.requests[-1:]:
            for metric in request.resource_metrics[0].scope_metrics[0].metrics:
                if metric.name == name:
                    return metric
        return None


class Watched:
    """A gate with METRICS, and what a scraper reads of it."""

    def __init__(self, gate: Gate, address: str, receiver: Receiver, policy: Path) -> None:
        self.gate = gate
        self.url = f"http://{address}/metrics"
        self.receiver = receiver
        self.policy = policy

    def text(self) -> str:
        answer = requests.get(self.url, timeout=20)
        assert answer.status_code == 200
        return answer.text

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        families = text_string_to_metric_families(self.text())
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of all series that have these labels."""
        found = self.samples().items()
        return sum(value for (each, pairs), value in found if each == name and labels.items() <= dict(pairs).items())

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_for(condition, what, 60, lambda: self.text() + self.gate.log()[-4000:])
