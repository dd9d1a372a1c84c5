"""What Prometheus reads from this node.

Guarantees: no label holds the name of an org, an app, a secret, a machine or a token: labels are
routes of our own table, statuses and constants. What the node counts anyway is read when it is
scraped, not counted twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from petsem import __version__
from petsem.server.api.reply import Reply
from petsem.server.node import Node
from petsem.sso.outcomes import Failure, Outcomes, Step

NO_ROUTE: Final = "none"
"""The label of requests that no route took."""

# Most answers take well under a millisecond, a commit a few, and a long poll half a minute.
_BUCKETS_S: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


class Meter:
    """Counts the requests of one route, in plain numbers: a Prometheus histogram of its own would
    cost each request as much as a read of the database."""

    __slots__ = ("buckets", "statuses", "total_s")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        # By the first bound that a time does not exceed; the last is for those above them all.
        self.buckets = [0] * (len(_BUCKETS_S) + 1)
        self.total_s = 0.0

    def count(self, status: int, took_s: float | None) -> None:
        """One request was answered, after `took_s` if that was measured."""
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if took_s is not None:
            self.buckets[bisect_left(_BUCKETS_S, took_s)] += 1
            self.total_s += took_s


class Metrics:
    """One node's metrics, in a registry of their own."""

    def __init__(self, node: Node) -> None:
        self._meters: dict[str, Meter] = {}
        self._registry = CollectorRegistry()
        self._registry.register(_RequestCollector(self._meters))
        self._registry.register(_NodeCollector(node))
        ProcessCollector(registry=self._registry)

    def meter(self, label: str) -> Meter:
        """What counts one route."""
        return self._meters.setdefault(label, Meter())

    def reply(self) -> Reply:
        """All of it, as Prometheus reads it."""
        return Reply(200, generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST.encode())


class _RequestCollector(Collector):
    """What the meters have counted, at each scrape."""

    def __init__(self, meters: Mapping[str, Meter]) -> None:
        self._meters = meters

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "petsem_http_requests",
            "HTTP requests answered, by route and status.",
            labels=("route", "status"),
        )
        latency = HistogramMetricFamily(
            "petsem_http_request_duration_seconds",
            "Time from the request's header to its answer, by route.",
            labels=("route",),
        )
        for route, meter in self._meters.items():
            for status, count in meter.statuses.items():
                requests.add_metric((route, str(status)), count)
            if route != NO_ROUTE:
                bounds = (*(str(bound) for bound in _BUCKETS_S), "+Inf")
                buckets = list(zip(bounds, accumulate(meter.buckets), strict=True))
                latency.add_metric((route,), buckets, meter.total_s)
        yield requests
        yield latency


class _NodeCollector(Collector):
    """Reads the node's own counts at each scrape."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        node, writer = self._node, self._node.writer
        identity = {
            "version": __version__,
            "node": node.identity.node_id,
            "region": node.identity.region,
        }
        yield InfoMetricFamily("petsem_build", "Program and node.", value=identity)
        yield CounterMetricFamily(
            "petsem_writer_commits", "Transactions committed since the start.", writer.commits
        )
        yield CounterMetricFamily(
            "petsem_writer_requests", "Writes that those transactions hold.", writer.requests
        )
        yield _gauge("petsem_writer_queue", "Writes that wait for their group.", writer.waiting)
        yield _gauge("petsem_position_epoch", "Epoch of the database.", writer.position.epoch)
        yield _gauge("petsem_position_txid", "Last TXID of the database.", writer.position.txid)
        yield _gauge(
            "petsem_disk_low", "1 while writes are refused for want of space.", node.space.low
        )
        yield _gauge(
            "petsem_ready", "1 if the node is ready, as /readyz says.", not node.status.ready()
        )
        yield from _sign_ins(node.authenticator.outcomes)


def _sign_ins(outcomes: Outcomes) -> Iterator[Metric]:
    """Each word is there from the start, so that its first count shows as one."""
    steps = CounterMetricFamily(
        "petsem_sign_ins", "Sign-ins that came so far, since the start.", labels=("step",)
    )
    for step in Step:
        steps.add_metric((step.value,), outcomes.steps[step])
    yield steps
    failures = CounterMetricFamily(
        "petsem_sign_in_failures", "Steps of sign-ins that failed, by reason.", labels=("reason",)
    )
    for reason in Failure:
        failures.add_metric((reason.value,), outcomes.failures[reason])
    yield failures


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value)
