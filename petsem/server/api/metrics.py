"""What Prometheus reads from this node.

Guarantees: no label holds the name of an org, an app, a secret, a machine or a token: labels are
routes of our own table, statuses and constants. What the node counts anyway is read when it is
scraped, not counted twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from petsem import __version__
from petsem.server.api.reply import Reply
from petsem.server.node import Node

NO_ROUTE: Final = "none"
"""The label of requests that no route took."""

# Most answers take well under a millisecond, a commit a few, and a long poll half a minute.
_BUCKETS_S: Final = (
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)


class Meter:
    """Counts the requests of one route."""

    __slots__ = ("_children", "_label", "_latency", "_requests")

    def __init__(self, requests: Counter, latency: Histogram, label: str) -> None:
        self._requests = requests
        self._latency = latency.labels(label)
        self._label = label
        self._children: dict[int, Counter] = {}

    def count(self, status: int, took_s: float | None) -> None:
        """One request was answered, after `took_s` if that was measured."""
        child = self._children.get(status)
        if child is None:
            child = self._children[status] = self._requests.labels(self._label, str(status))
        child.inc()
        if took_s is not None:
            self._latency.observe(took_s)


class Metrics:
    """One node's metrics, in a registry of their own."""

    def __init__(self, node: Node) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "petsem_http_requests",
            "HTTP requests answered, by route and status.",
            ("route", "status"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "petsem_http_request_duration_seconds",
            "Time from the request's header to its answer, by route.",
            ("route",),
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_NodeCollector(node))
        ProcessCollector(registry=self._registry)

    def meter(self, label: str) -> Meter:
        """What counts one route."""
        return Meter(self._requests, self._latency, label)

    def reply(self) -> Reply:
        """All of it, as Prometheus reads it."""
        return Reply(200, generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST.encode())


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


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value)
