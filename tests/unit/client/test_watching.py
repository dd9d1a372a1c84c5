"""Watches as stories: streams end, nodes move, tokens are narrowed again."""

from __future__ import annotations

import grpc
import pytest

from petsem.clock import ManualClock, rfc3339
from petsem.errors import Code, PetsemError
from petsem.tokens.text import parse_token
from petsem.wire import petsem_pb2 as pb
from petsem_client.failures import failure_of
from petsem_client.replies import AppChanged
from petsem_client.requests import checked_watch
from petsem_client.session import Send, Step
from petsem_client.shared import Shared
from petsem_client.tour import Pause
from petsem_client.watching import WatchSession
from tests.unit.client.far_end import A, B, FarEnd, token

STATUS = grpc.StatusCode
RESET = failure_of(STATUS.UNAVAILABLE, "connection reset", ())


class Watching:
    """One watch of acme/web after version 3, and the node it hears."""

    def __init__(self, *endpoints: str, text: str = "") -> None:
        self.clock = ManualClock()
        self.node = FarEnd(self.clock)
        shared = Shared.of(
            endpoints or (A, B),
            token=text or token(),
            clock=self.clock,
            timeout_s=10.0,
            attempt_timeout_s=1.5,
        )
        self.session = WatchSession(
            shared, checked_watch("acme/web", machine=None, after_version=3)
        )

    def message(self, version: int) -> bytes:
        return pb.AppChanged(version=version, freshness=self.node.freshness()).SerializeToString()

    def expired(self) -> Step:
        refused = self.node.refused(STATUS.UNAUTHENTICATED, "unauthenticated", "EXPIRED")
        return self.session.failed(refused.failure())


def sent(step: object) -> Send:
    assert isinstance(step, Send)
    return step


def after_version(step: object) -> int:
    return pb.WatchRequest.FromString(sent(step).body).after_version


def test_versions_rise() -> None:
    """Each new version is told once; old news and repetitions are not."""
    our = Watching()
    assert after_version(our.session.start()) == 3
    told = [our.session.received(our.message(version)) for version in (4, 4, 3, 6)]
    assert [isinstance(each, AppChanged) and each.version for each in told] == [4, False, False, 6]


def test_a_stream_is_narrowed_to_an_hour_and_left_before_that() -> None:
    """The stream's own deadline is half a minute before its token's end."""
    our = Watching()
    step = sent(our.session.start())
    end = parse_token(step.token.reveal().decode()).root.caveats[-1].cid.decode()
    assert end == f"time < {rfc3339(our.clock.unix_ms() + 3_600_000)}"
    assert step.timeout_s == 3_570


def test_renewal_is_no_failure() -> None:
    """When the stream's time is up the same node is asked at once, with a new token."""
    our = Watching()
    first = sent(our.session.start())
    our.session.received(our.message(5))
    our.clock.advance(first.timeout_s)
    step = our.session.failed(failure_of(STATUS.DEADLINE_EXCEEDED, "", ()))
    assert (str(sent(step).endpoint), after_version(step)) == (A, 5)
    assert sent(step).token != first.token


def test_a_node_that_stops() -> None:
    """A stream that is closed or cut goes on at the next node, from the last version seen."""
    our = Watching()
    our.session.start()
    our.session.received(our.message(5))
    our.clock.advance(60)
    step = our.session.failed(RESET)
    assert (str(sent(step).endpoint), after_version(step)) == (B, 5)
    our.clock.advance(60)
    assert isinstance(our.session.closed(), Send)


def test_reconnecting_backs_off() -> None:
    """With no node up it pauses between rounds, for ever if need be."""
    our = Watching()
    step = our.session.start()
    pauses = []
    for _ in range(60):
        if isinstance(step, Pause):
            pauses.append(step.seconds)
            step = our.session.resumed()
        else:
            step = our.session.failed(RESET)
    assert max(pauses) <= 15
    assert pauses[-1] >= 7.5


def test_a_node_that_says_one_thing_and_hangs_up() -> None:
    """A message alone does not make a stream good: there are pauses between such streams."""
    our = Watching(A)
    step: Step = our.session.start()
    pauses = 0
    for version in range(4, 40):
        if isinstance(step, Pause):
            pauses += 1
            step = our.session.resumed()
        our.session.received(our.message(version))
        step = our.session.closed()
    assert pauses >= 30


def test_a_clock_that_is_off() -> None:
    """On EXPIRED the time is learnt and the stream opened once more; twice ends the watch."""
    our = Watching()
    our.node.skew_s = 90 * 60
    our.session.start()
    step = sent(our.expired())
    end = parse_token(step.token.reveal().decode()).root.caveats[-1].cid.decode()
    assert end == f"time < {rfc3339(our.node.now_ms() + 3_600_000)}"
    with pytest.raises(PetsemError) as caught:
        our.expired()
    assert caught.value.detail.reason == "EXPIRED"


def test_the_token_ends() -> None:
    """When the parent is over the watch says so and ends."""
    our = Watching(text=token("time < 2027-01-15T08:10:00Z"))
    our.session.start()
    our.clock.advance(86_400)
    with pytest.raises(PetsemError) as caught:
        our.expired()
    assert (caught.value.code, caught.value.detail.reason) == (Code.UNAUTHENTICATED, "EXPIRED")


@pytest.mark.parametrize(
    ("status", "code"), [(STATUS.NOT_FOUND, "not_found"), (STATUS.PERMISSION_DENIED, "denied")]
)
def test_a_refusal_ends_it(status: grpc.StatusCode, code: str) -> None:
    """A deleted app or a revoked token ends the watch with that error, however long it stood."""
    our = Watching()
    our.session.start()
    our.clock.advance(600)
    with pytest.raises(PetsemError) as caught:
        our.session.failed(our.node.refused(status, code).failure())
    assert caught.value.code is Code(code)


def test_junk_on_a_stream() -> None:
    """A node that sends what is no message is left for another one."""
    our = Watching()
    our.session.start()
    step = our.session.received(b"\xff")
    assert str(sent(step).endpoint) == B


def test_a_token_that_seems_to_be_over_gets_a_hearing() -> None:
    """If our clock is ahead, the stream is still given half a minute to tell the time."""
    our = Watching(text=token("time < 2027-01-15T07:00:00Z"))
    assert sent(our.session.start()).timeout_s == 30
