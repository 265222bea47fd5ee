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

#: What of the last hour is kept by minutes.
REMEMBERED = frozenset({"gatehouse_requests_total", "gatehouse_refusals_total", "gatehouse_request_duration_seconds"})
#: Operations in a status.
MOST_SLOWEST = 10


class Sums(Collector):
    """The one set of sums; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, dict[Labels, float]] = {}
        self._times: dict[str, dict[Labels, list[float]]] = {}
        self.since = time.time()
        #: The last hour by minutes (of the monotonic clock): what was counted, and the times of operations.
        self._hour: dict[int, tuple[dict[tuple[str, Labels], float], dict[str, list[float]]]] = {}

    def take(self, message: bytes) -> None:
        """Add a datagram's notes."""
        with self._lock:
            for name, labels, value in json.loads(message):
                self._add(name, tuple(labels), value)

    def _add(self, name: str, labels: Labels, value: Any) -> None:
        kind = METRICS[name].kind
        if name in REMEMBERED:
            self._remember(name, labels, value)
        if kind == "histogram":
            slots = self._times.setdefault(name, {}).setdefault(labels, [0.0] * (len(BUCKETS) + 2))
            for index in range(len(slots)):
                slots[index] += value[index]
            return
        series = self._numbers.setdefault(name, {})
        series[labels] = series.get(labels, 0.0) + value if kind == "counter" else value

    def _remember(self, name: str, labels: Labels, value: Any) -> None:
        minute = int(time.monotonic() // 60)
        if minute not in self._hour:
            self._hour[minute] = ({}, {})
            for old in [each for each in self._hour if each <= minute - 60]:
                del self._hour[old]
        counts, times = self._hour[minute]
        if METRICS[name].kind == "histogram":
            slots = times.setdefault(labels[0], [0.0] * (len(BUCKETS) + 3))
            longest = max(slots[-1], value[-1])
            times[labels[0]] = [*(a + b for a, b in zip(slots[:-1], value[:-1], strict=True)), longest]
        else:
            counts[name, labels] = counts.get((name, labels), 0.0) + value

    def state(self) -> dict[str, Any]:
        """Return what matters now, for ``gatehouse status``: the last hour's requests, and every gauge."""
        with self._lock:
            since = time.monotonic() // 60 - 60
            minutes = [kept for minute, kept in self._hour.items() if minute > since]
            gauges = {
                name: [
                    {**dict(zip(METRICS[name].labels, labels, strict=True)), "value": value} for labels, value in each
                ]
                for name in METRICS
                if METRICS[name].kind == "gauge" and (each := sorted(self._numbers.get(name, {}).items()))
            }
        results: dict[str, float] = {}
        refusals: dict[str, float] = {}
        times: dict[str, list[float]] = {}
        for counts, observed in minutes:
            for (name, labels), value in counts.items():
                into, label = (results, labels[-1]) if name == "gatehouse_requests_total" else (refusals, labels[0])
                into[label] = into.get(label, 0) + value
            for operation, slots in observed.items():
                before = times.get(operation, [0.0] * len(slots))
                longest = max(before[-1], slots[-1])
                times[operation] = [*(a + b for a, b in zip(before[:-1], slots[:-1], strict=True)), longest]
        operations = [_times(operation, slots) for operation, slots in times.items()]
        operations.sort(key=lambda each: (each["p95_s"], each["mean_s"]), reverse=True)
        return {
            "up_s": round(time.time() - self.since),
            "requests": results,
            "refusals": refusals,
            "slowest": operations[:MOST_SLOWEST],
            "gauges": gauges,
        }

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


def _times(operation: str, slots: list[float]) -> dict[str, Any]:
    """Return an operation's number of requests, and seconds: the mean, the bound that 95 of 100 kept, the longest."""
    count = sum(slots[:-2])
    bound = next((bound for bound, total in _bounds(slots) if total >= 0.95 * count), slots[-1])
    return {
        "operation": operation,
        "count": int(count),
        "mean_s": round(slots[-2] / count, 4),
        "p95_s": round(min(bound, slots[-1]), 4),
        "longest_s": round(slots[-1], 4),
    }


def _bounds(slots: list[float]) -> Iterator[tuple[float, float]]:
    total = 0.0
    for bound, count in zip(BUCKETS, slots, strict=False):
        total += count
        yield bound, total
