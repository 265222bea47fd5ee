"""All processes' notes, added up; and how they look to Prometheus.

The form, its escapes and its negotiation are prometheus_client's; the sums are ours, for its own multi-process mode
keeps a file for each process and metric, and reads all of them at each scrape.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from gatehouse.monitoring.table import BUCKETS, METRICS

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

Labels = tuple[str, ...]


class Sums(Collector):
    """The one set of sums; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, dict[Labels, float]] = {}
        self._times: dict[str, dict[Labels, list[float]]] = {}
        self.since = time.time()

    def take(self, message: bytes) -> None:
        """Add a datagram's notes."""
        with self._lock:
            for name, labels, value in json.loads(message):
                self._add(name, tuple(labels), value)

    def _add(self, name: str, labels: Labels, value: Any) -> None:
        kind = METRICS[name].kind
        if kind == "histogram":
            slots = self._times.setdefault(name, {}).setdefault(labels, [0.0] * (len(BUCKETS) + 2))
            for index in range(len(slots)):
                slots[index] += value[index]
            return
        series = self._numbers.setdefault(name, {})
        series[labels] = series.get(labels, 0.0) + value if kind == "counter" else value

    def collect(self) -> Iterator[Family]:
        """Yield every metric that has been noted, as prometheus_client's registry asks for it."""
        with self._lock:
            numbers = {name: dict(series) for name, series in self._numbers.items()}
            times = {
                name: {labels: list(slots) for labels, slots in series.items()} for name, series in self._times.items()
            }
        for name, metric in METRICS.items():
            if metric.kind == "histogram":
                histogram = HistogramMetricFamily(name, metric.help, labels=metric.labels)
                for labels, slots in sorted(times.get(name, {}).items()):
                    histogram.add_metric(labels, list(_buckets(slots)), slots[-1])
                yield histogram
                continue
            family = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
                name, metric.help, labels=metric.labels
            )
            series = numbers.get(name, {})
            if not metric.labels and metric.kind == "counter":
                series.setdefault((), 0.0)  # a rate needs a beginning
            for labels, value in sorted(series.items()):
                family.add_metric(labels, value)
            yield family

    def describe(self) -> Iterable[Family]:
        """Return nothing: no need to collect for the sake of names."""
        return []


def _buckets(slots: list[float]) -> Iterator[tuple[str, float]]:
    """Yield upper bounds and the counts up to them."""
    total = 0.0
    for bound, count in zip((*map(str, BUCKETS), "+Inf"), slots, strict=False):
        total += count
        yield bound, total
