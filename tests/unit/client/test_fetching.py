"""Fetches as stories of faults and attacks, on a clock that jumps instead of sleeping."""

from __future__ import annotations

import grpc
import pytest

from petsem.clock import ManualClock, rfc3339
from petsem.errors import Code
from petsem.tokens.text import parse_token
from petsem.wire import petsem_pb2 as pb
from petsem_client import Bundle
from petsem_client.endpoints import REST_MIN_S
from tests.unit.client.far_end import OTHER_CLUSTER, A, B, C, FarEnd, World, drops, says, token

STATUS = grpc.StatusCode
CAVEATS = ("org = acme", "time < 2027-03-01T00:00:00Z")


def world(
    *endpoints: str, text: str | None = None, skew_s: float = 0.0, dead: tuple[str, ...] = ()
) -> World:
    """Nodes with one right clock between them; the client's wall clock is theirs less `skew_s`."""
    clock = ManualClock()
    nodes = {
        endpoint: None if endpoint in dead else FarEnd(clock, name=endpoint, skew_s=skew_s)
        for endpoint in endpoints
    }
    return World(nodes, clock, text or token(*CAVEATS))


def node(of: World, endpoint: str) -> FarEnd:
    found = of.nodes[endpoint]
    assert found is not None
    return found


def served_by(bundle: Bundle) -> str:
    return bundle.freshness.node


# The nodes


def test_the_nearest_answers() -> None:
    """With everything well the first of the list is asked, once."""
    our = world(A, B)
    assert dict(our.fetch()) == {"DATABASE_URL": b"postgres://"}
    assert our.asked == [A]


def test_a_black_hole_costs_a_fraction_once() -> None:
    """A first node that swallows everything costs 1.5 s, and the next fetch starts elsewhere."""
    our = world(A, B, dead=(A,))
    before_s = our.clock.boot_s()
    assert served_by(our.fetch()) == B
    assert our.clock.boot_s() - before_s == 1.5
    our.fetch()
    assert our.asked == [A, B, B]


def test_a_node_that_is_down_and_comes_back() -> None:
    """Fetches go on at the second node, and come home some time after the first is back."""
    our = world(A, B)
    node(our, A).faults.append(drops)
    assert served_by(our.fetch()) == B
    our.clock.advance(REST_MIN_S / 2 - 1)
    assert served_by(our.fetch()) == B
    our.clock.advance(REST_MIN_S)
    assert served_by(our.fetch()) == A


def test_all_down_for_a_moment() -> None:
    """A restart of everything is waited for, with pauses that grow."""
    our = world(A, B)
    for endpoint in (A, B):
        node(our, endpoint).faults += [drops] * 3
    our.fetch()
    assert len(our.asked) == 7
    assert len(our.paused_s) == 3
    assert our.paused_s == sorted(our.paused_s)


def test_nobody_answers() -> None:
    """The call ends within its deadline and says what happened at each node."""
    our = world(A, B, dead=(A,))
    node(our, B).faults += [drops] * 1000
    before_s = our.clock.boot_s()
    error = our.error()
    assert our.clock.boot_s() - before_s <= 10.0
    assert error.code is Code.UNAVAILABLE
    assert error.message == (
        "no node could answer; check the addresses and the nodes "
        f"({A}: no answer in time; {B}: connection reset)"
    )


def test_a_call_s_own_deadline() -> None:
    """`timeout_s` of the call replaces the reader's."""
    our = world(A, B, dead=(A, B))
    before_s = our.clock.boot_s()
    assert our.error(timeout_s=0.5).code is Code.UNAVAILABLE
    assert our.clock.boot_s() - before_s <= 0.5 + 1e-9
    for bad in (0.0, -1.0, float("nan"), float("inf"), 601.0):
        assert our.error(timeout_s=bad).code is Code.INVALID


def test_a_stale_node_sends_us_to_a_fresher_one() -> None:
    """A node behind the wanted version is left for the next, and is not blamed for it."""
    our = world(A, B)
    node(our, A).version = 2
    bundle = our.fetch(min_version=3)
    assert (served_by(bundle), bundle.version) == (B, 3)
    our.fetch()
    assert our.asked == [A, B, A]


def test_a_node_that_only_refuses_is_alive() -> None:
    """Any answer of a node that had failed ends its rest, not only a good one."""
    our = world(A, B)
    node(our, A).faults += [drops, says(STATUS.NOT_FOUND, "not_found")]
    our.fetch()
    our.clock.advance(REST_MIN_S)
    assert our.error().code is Code.NOT_FOUND
    our.fetch()
    assert our.asked == [A, B, A, A]


def test_stale_everywhere() -> None:
    """When nobody gets there in time the error is `stale`, and says what there is."""
    our = world(A, B)
    error = our.error(min_version=9)
    assert error.code is Code.STALE
    assert (error.detail.have_version, error.detail.need_version) == (3, 9)


def test_stale_until_it_catches_up() -> None:
    """One node alone is asked again until it has caught up."""
    our = world(A)
    node(our, A).faults += [says(STATUS.FAILED_PRECONDITION, "stale")] * 3
    assert our.fetch(min_version=3).version == 3
    assert our.asked == [A] * 4


def test_a_node_that_hides_that_it_is_behind() -> None:
    """A node that answers an old version to a fenced fetch is treated as stale."""
    our = world(A, B)
    liar = node(our, A)
    liar.version = 2
    liar.faults.append(lambda n: n.reply().SerializeToString())
    assert served_by(our.fetch(min_version=3)) == B


def test_a_damaged_disk_is_not_the_end() -> None:
    """DATA_LOSS on the first node is tried at the second."""
    our = world(A, B)
    node(our, A).faults.append(says(STATUS.DATA_LOSS, "corrupt", message="TLS_KEY is damaged"))
    assert served_by(our.fetch()) == B


def test_damage_is_told_before_anything_that_came_after() -> None:
    """With no good node the first node's damage is the error, and it was asked only once."""
    our = world(A, B, C, dead=(B,))
    node(our, A).faults.append(says(STATUS.DATA_LOSS, "corrupt", message="TLS_KEY is damaged"))
    node(our, C).faults += [says(STATUS.FAILED_PRECONDITION, "stale")] * 1000
    error = our.error()
    assert (error.code, error.message) == (Code.CORRUPT, "TLS_KEY is damaged")
    assert our.asked.count(A) == 1


def test_damage_everywhere_does_not_wait() -> None:
    """Disks do not heal by asking again: each node once, no pause."""
    our = world(A, B)
    for endpoint in (A, B):
        node(our, endpoint).faults += [says(STATUS.DATA_LOSS, "corrupt", message=endpoint)] * 9
    assert our.error().message == A
    assert (our.asked, our.paused_s) == ([A, B], [])


@pytest.mark.parametrize("lie", [b"\xff", b"", pb.FetchResponse(version=1).SerializeToString()])
def test_a_node_that_breaks_the_protocol(lie: bytes) -> None:
    """A reply that cannot be used sends us elsewhere; alone it ends as `unavailable`."""
    our = world(A, B)
    node(our, A).faults.append(lambda _: lie)
    assert served_by(our.fetch()) == B
    alone = world(A)
    node(alone, A).faults.append(lambda _: lie)
    error = alone.error()
    assert error.code is Code.UNAVAILABLE
    assert "broke the protocol" in error.message
    assert alone.asked == [A]


def test_an_overloaded_node() -> None:
    """`limit` is tried elsewhere, and is what is told if everybody says so."""
    our = world(A, B)
    node(our, A).faults.append(says(STATUS.RESOURCE_EXHAUSTED, "limit"))
    assert served_by(our.fetch()) == B
    for endpoint in (A, B):
        node(our, endpoint).faults += [says(STATUS.RESOURCE_EXHAUSTED, "limit")] * 1000
    assert our.error().code is Code.LIMIT


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (STATUS.PERMISSION_DENIED, "denied", "REVOKED"),
        (STATUS.UNAUTHENTICATED, "unauthenticated", "BAD_SIGNATURE"),
        (STATUS.UNAUTHENTICATED, "unauthenticated", "NOT_YET_VALID"),
        (STATUS.NOT_FOUND, "not_found", ""),
        (STATUS.INVALID_ARGUMENT, "invalid", ""),
        (STATUS.ABORTED, "conflict", "LOST"),
    ],
)
def test_a_refusal_is_final(status: grpc.StatusCode, code: str, reason: str) -> None:
    """What every node would say is not asked of every node."""
    our = world(A, B)
    node(our, A).faults.append(says(status, code, reason, "no, and here is why"))
    error = our.error()
    assert (error.code, error.detail.reason or "") == (Code(code), reason)
    assert error.message == "no, and here is why"
    assert our.asked == [A]


def test_another_cluster_s_token() -> None:
    """It is refused by the first node, once, with the reason."""
    our = world(A, B, text=token(*CAVEATS, cluster=OTHER_CLUSTER))
    error = our.error()
    assert (error.code, error.detail.reason) == (Code.UNAUTHENTICATED, "WRONG_CLUSTER")
    assert our.asked == [A]


def test_another_org_s_app() -> None:
    """Narrowing adds the org asked for to the token's own, so that nothing satisfies both."""
    our = world(A)
    error = our.error(app="other/web")
    assert (error.code, error.detail.reason) == (Code.DENIED, "CAVEAT")


# What is known


def test_not_modified() -> None:
    """A known bundle is confirmed without its bytes, and is fresher."""
    our = world(A, B)
    first = our.fetch()
    our.clock.advance(100)
    again = our.fetch(known=first)
    assert again == first
    assert again.freshness.server_time_ms == first.freshness.server_time_ms + 100_000


def test_not_modified_is_no_way_to_blind_us() -> None:
    """A node that says not_modified to somebody who knows nothing is left for another."""
    our = world(A, B)
    lie = pb.FetchResponse(not_modified=True, version=3, freshness=node(our, A).freshness())
    node(our, A).faults.append(lambda _: lie.SerializeToString())
    assert served_by(our.fetch()) == B


def test_a_name_nobody_asked_for() -> None:
    """A node cannot slip a variable in beside the one asked for."""
    our = world(A, B)
    extra = FarEnd(our.clock, values={"DATABASE_URL": b"x", "LD_PRELOAD": b"/evil.so"})
    node(our, A).faults.append(lambda _: extra.reply().SerializeToString())
    assert set(our.fetch(names=("DATABASE_URL",))) == {"DATABASE_URL"}


# The token and the clock


def heard(of: World, endpoint: str) -> list[str]:
    return node(of, endpoint).heard


def test_the_token_itself_never_leaves() -> None:
    """Nodes hear only narrowed copies, and the same copy until half of its life is over."""
    whole = token(*CAVEATS)
    our = world(A, text=whole)
    for _ in range(3):
        our.fetch(machine="m1")
        our.clock.advance(9.9)
    assert len(set(heard(our, A))) == 1
    our.clock.advance(0.3)
    our.fetch(machine="m1")
    assert len(set(heard(our, A))) == 2
    assert whole not in heard(our, A)


def test_an_overheard_token_is_useless_elsewhere_and_later() -> None:
    """What a listener caught in a fetch opens no other app, machine or action, nor a minute on."""
    our = world(A)
    our.fetch(machine="m1")
    (overheard,) = heard(our, A)
    server = node(our, A)
    right = {"org": "acme", "app": "web", "machine": "m1", "action": "secrets:read"}
    assert server.admits(overheard, right) is None
    for key, value in (("app", "api"), ("machine", "m2"), ("action", "secrets:write")):
        assert server.admits(overheard, {**right, key: value}) == "CAVEAT"
    our.clock.advance(60)
    assert server.admits(overheard, right) == "EXPIRED"


@pytest.mark.parametrize("skew_s", [90 * 60, 7_200, -90 * 60, -7_200])
def test_a_clock_that_is_off_by_up_to_two_hours(skew_s: float) -> None:
    """The machine fetches all the same, and from then on narrows by the server's time."""
    our = world(A, B, skew_s=skew_s)
    our.fetch()
    assert our.asked == ([A, A] if skew_s > 0 else [A])
    our.clock.advance(40)
    our.fetch()
    last = parse_token(heard(our, A)[-1]).root.caveats[-1].cid.decode()
    assert last == f"time < {rfc3339(node(our, A).now_ms() + 60_000)}"


def test_a_clock_that_is_three_hours_behind() -> None:
    """Beyond the cap the node's time is not believed: one more try, then say what to do."""
    our = world(A, B, skew_s=3 * 3_600)
    error = our.error()
    assert (error.code, error.detail.reason) == (Code.UNAUTHENTICATED, "EXPIRED")
    assert "set the clock" in error.message
    assert our.asked == [A, A]


def test_a_node_cannot_make_tokens_live_long() -> None:
    """A node whose replies lie about the time gets tokens that end 2 h 1 min from now at most."""
    our = world(A)
    node(our, A).skew_s = 300 * 86_400
    node(our, A).faults += [lambda n: n.reply().SerializeToString()] * 2
    our.fetch()
    our.clock.advance(40)
    our.fetch()
    sent = our.sent[-1].token.reveal().decode()
    end = parse_token(sent).root.caveats[-1].cid.decode()
    assert end == f"time < {rfc3339(our.clock.unix_ms() + 7_260_000)}"


def test_one_node_s_wrong_clock_does_not_stop_us() -> None:
    """Each node gets one more narrowing by its own time, then the call goes on or ends."""
    our = world(A, B)
    node(our, A).skew_s = -3_000
    node(our, A).faults += [lambda n: n.reply().SerializeToString()]
    our.fetch()
    our.clock.advance(1)
    node(our, A).faults.append(drops)
    assert served_by(our.fetch()) == B
    assert our.asked == [A, A, B, B]


def test_an_expired_parent_is_said_to_be_one() -> None:
    """When the token itself is over, no narrowing helps: the error says since when."""
    our = world(A, B, text=token("time < 2026-01-01T00:00:00Z"))
    error = our.error()
    assert (error.code, error.detail.reason) == (Code.UNAUTHENTICATED, "EXPIRED")
    assert "2026-01-01T00:00:00Z" in error.message
    assert our.asked == [A]


def test_a_clock_ahead_does_not_end_a_good_parent() -> None:
    """Our own clock never decides that a token is over; the node does."""
    clock = ManualClock()
    end_ms = clock.unix_ms() - 3_600_000
    our = world(A, text=token(f"time < {rfc3339(end_ms)}"), skew_s=-2 * 3_600)
    our.fetch()
    our.fetch()
    first, second = (parse_token(sent).root.caveats for sent in heard(our, A))
    assert first[-1].cid == b"action = secrets:read"
    assert second[-1].cid == f"time < {rfc3339(node(our, A).now_ms() + 60_000)}".encode()


def test_a_node_that_says_expired_for_ever() -> None:
    """Two answers of EXPIRED from one node end the call; it is no way to keep us busy."""
    our = world(A, B)
    node(our, A).faults += [says(STATUS.UNAUTHENTICATED, "unauthenticated", "EXPIRED")] * 9
    assert our.error().detail.reason == "EXPIRED"
    assert our.asked == [A, A]


def test_no_error_shows_the_token() -> None:
    """Whatever a node echoes, no error and no repr of a step has any part of the token."""
    our = world(A)
    our.fetch()
    (narrowed,) = heard(our, A)
    for text in (narrowed, narrowed.removeprefix("petsem_").partition(".")[0]):
        node(our, A).faults.append(says(STATUS.NOT_FOUND, "not_found", message=f"no {text}"))
        error = our.error()
        assert narrowed[10:50] not in f"{error!r} {error} {error.detail}"
    assert narrowed[10:50] not in repr(our.sent) + repr(our.shared)
