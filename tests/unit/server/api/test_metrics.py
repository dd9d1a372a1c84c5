"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from petsem import __version__
from petsem.sso.outcomes import Failure, Step
from tests.unit.server.api.world import SECRETS, Api


async def _samples(api: Api) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await api.ask("GET", "/metrics")).content.decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests(api: Api) -> None:
    """Requests are counted by route and status, also those that no route took."""
    await api.get(SECRETS)
    await api.ask("GET", SECRETS, token=None)
    await api.ask("GET", "/nowhere")
    found = await _samples(api)
    route = "GET /v1/orgs/{org}/apps/{app}/secrets"
    assert found["petsem_http_requests_total", (("route", route), ("status", "200"))] == 1
    assert found["petsem_http_requests_total", (("route", route), ("status", "401"))] == 1
    assert found["petsem_http_requests_total", (("route", "none"), ("status", "404"))] == 1
    assert found["petsem_http_request_duration_seconds_count", (("route", route),)] == 2


async def test_the_node(api: Api) -> None:
    """The writer, the position, the disk, readiness and the build are there."""
    found = await _samples(api)
    position = api.node.writer.position
    assert found["petsem_position_txid", ()] == position.txid
    assert found["petsem_position_epoch", ()] == position.epoch == 2
    assert found["petsem_writer_commits_total", ()] == api.node.writer.commits > 0
    assert found["petsem_writer_requests_total", ()] == api.node.writer.requests > 0
    assert found["petsem_writer_queue", ()] == 0
    assert found["petsem_disk_low", ()] == 0
    assert found["petsem_ready", ()] == 1
    node = (("node", api.node.identity.node_id), ("region", "ams"), ("version", __version__))
    assert found["petsem_build_info", node] == 1
    assert found["process_resident_memory_bytes", ()] > 0


async def test_no_names(api: Api) -> None:
    """No label holds a name that a client chose: not of an org, app, secret, machine or token."""
    await api.get(SECRETS + "/values", machine="machine-canary", names="A")
    await api.ask("GET", "/v1/orgs/org-canary/settings")
    await api.ask("GET", "/path-canary")
    text = (await api.ask("GET", "/metrics")).content.decode()
    assert "canary" not in text
    assert "acme" not in text
    assert "petsem_Ag" not in text


async def test_stopping(api: Api) -> None:
    """A node that is stopping is not ready, here as at /readyz."""
    api.node.status.draining = True
    assert (await _samples(api))["petsem_ready", ()] == 0


async def test_sign_ins(api: Api) -> None:
    """Each step and each failure has its number from the start, and no other label."""
    outcomes = api.node.authenticator.outcomes
    outcomes.steps[Step.REFUSED] += 2
    outcomes.failures[Failure.CODE] += 3
    found = await _samples(api)
    steps = {"started": 0, "confirmed": 0, "signed_in": 0, "refused": 2}
    failures = dict.fromkeys(map(str, Failure), 0) | {"code": 3}
    assert (
        found.items()
        >= {
            **{("petsem_sign_ins_total", (("step", k),)): n for k, n in steps.items()},
            **{("petsem_sign_in_failures_total", (("reason", k),)): n for k, n in failures.items()},
        }.items()
    )
    labels = [labels for name, labels in found if name.startswith("petsem_sign_in")]
    assert len(labels) == len(steps) + len(failures)
    refused = await api.ask("GET", "/sso", token=None, flow="x")
    assert refused.status == 400
    assert (await _samples(api))["petsem_sign_in_failures_total", (("reason", "other"),)] == 1
