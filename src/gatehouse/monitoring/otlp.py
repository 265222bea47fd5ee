"""The same figures pushed by OTLP, for platforms where nobody can scrape an instance.

OTEL_EXPORTER_OTLP_METRICS_ENDPOINT switches it on; the other OTEL_* variables are OpenTelemetry's own, and its exporter
reads them (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gatehouse import __version__
from gatehouse.monitoring.table import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric as Family
    from prometheus_client.registry import Collector

ENDPOINT = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
#: Milliseconds between two pushes (OpenTelemetry's own variable and default).
INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
DEFAULT_INTERVAL_MS = 60_000


class Push:
    """Pushes what collectors have, every so often, until :meth:`stop`.

    Args:
        collectors: whose figures.
        since: since when counters count, in seconds since the epoch.
    """

    def __init__(self, collectors: Iterable[Collector], since: float) -> None:
        self._collectors = list(collectors)
        self._since = int(since * 1e9)
        self._exporter = OTLPMetricExporter()
        # service.name is a default of ours; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
        own = {"service.name": "gatehouse", "service.version": __version__, "service.instance.id": _instance()}
        given = dict(Resource.create().attributes)
        if str(given.get("service.name", "")).startswith("unknown_service"):
            del given["service.name"]
        self._resource = Resource({**own, **given})
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._interval = int(os.environ.get(INTERVAL) or DEFAULT_INTERVAL_MS) / 1000
        self._thread = threading.Thread(target=self._run, name="push", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            self.now()

    def now(self) -> bool:
        """Push once; return whether it was taken. The exporter says on stderr why it wasn't."""
        with self._lock:
            return self._exporter.export(self._data()) is MetricExportResult.SUCCESS

    def stop(self) -> None:
        """Push what is left."""
        self._ended.set()
        self.now()

    def _data(self) -> MetricsData:
        now = time.time_ns()
        metrics = [
            metric
            for collector in self._collectors
            for family in collector.collect()
            if (metric := _metric(family, self._since, now))
        ]
        scope = ScopeMetrics(InstrumentationScope("gatehouse", __version__), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def _instance() -> str:
    """Return what tells this instance from others: Cloud Run's revision and this host's name."""
    return "/".join(filter(None, (os.environ.get("K_REVISION"), os.uname().nodename)))


def _metric(family: Family, since: int, now: int) -> Metric | None:
    """Return a family in OpenTelemetry's form, or None if it has no series."""
    if not family.samples:
        return None
    cumulative = AggregationTemporality.CUMULATIVE
    data: Sum | Gauge | Histogram
    if family.type == "histogram":
        data = Histogram(list(_histograms(family, since, now)), cumulative)
    else:
        points = [NumberDataPoint(dict(sample.labels), since, now, sample.value) for sample in family.samples]
        data = Sum(points, cumulative, is_monotonic=True) if family.type == "counter" else Gauge(points)
    return Metric(family.name, family.documentation, "", data)


def _histograms(family: Family, since: int, now: int) -> Iterable[HistogramDataPoint]:
    series: dict[tuple[tuple[str, str], ...], tuple[list[float], float]] = {}
    for sample in family.samples:
        key = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        counts, total = series.get(key, ([], 0.0))
        if sample.name.endswith("_bucket"):
            counts.append(sample.value)
        elif sample.name.endswith("_sum"):
            total = sample.value
        series[key] = counts, total
    for key, (counts, total) in series.items():
        each = [int(after - before) for before, after in zip([0.0, *counts], counts, strict=False)]
        yield HistogramDataPoint(
            dict(key), since, now, int(counts[-1]), total, each, BUCKETS, float("nan"), float("nan")
        )
