"""What leaves this machine: a token for one app, one machine, reading, and a minute."""

from __future__ import annotations

import pytest

from petsem.clock import ManualClock, rfc3339
from petsem.errors import Code, PetsemError
from petsem.tokens.macaroon import attenuate
from petsem.tokens.reasons import Reason
from petsem.tokens.text import encode_token, parse_token
from petsem_client.narrowing import (
    FETCH_LIFE_S,
    KEPT_MAX,
    OFFSET_MAX_MS,
    WATCH_LIFE_S,
    Narrower,
    Scope,
    ServerClock,
)
from tests.unit.client.far_end import FarEnd, token

WEB = Scope("acme", "web", "3d8d9014")
PARENT = "time < 2027-03-01T00:00:00Z"
RIGHT = {"org": "acme", "app": "web", "machine": "3d8d9014", "action": "secrets:read"}


def setting(*caveats: str) -> tuple[ManualClock, ServerClock, Narrower]:
    clock = ManualClock()
    server_clock = ServerClock(clock)
    return clock, server_clock, Narrower(token(*caveats), clock, server_clock)


def text(narrower: Narrower, scope: Scope = WEB) -> str:
    return narrower.narrow(scope).text.reveal().decode()


def test_what_an_overheard_token_can_do() -> None:
    """Only that app, for that machine, only reading, and only for a minute."""
    clock, _, narrower = setting("org = acme", PARENT)
    overheard = text(narrower)
    node = FarEnd(clock)
    start_s = clock.unix_ms() / 1000
    assert node.admits(overheard, RIGHT) is None
    assert node.admits(overheard, RIGHT, start_s + FETCH_LIFE_S - 1) is None
    assert node.admits(overheard, RIGHT, start_s + FETCH_LIFE_S) is Reason.EXPIRED
    for changed in (
        {"app": "api"},
        {"org": "other"},
        {"machine": "ffff"},
        {"action": "secrets:write"},
        {"action": "secrets:list"},
        {"action": "tokens:mint"},
    ):
        assert node.admits(overheard, {**RIGHT, **changed}) is Reason.CAVEAT
    without_machine = {key: value for key, value in RIGHT.items() if key != "machine"}
    assert node.admits(overheard, without_machine) is Reason.CAVEAT


def test_a_narrowed_token_cannot_be_widened() -> None:
    """Taking a caveat off again breaks the signature."""
    clock, _, narrower = setting("org = acme", PARENT)
    root = parse_token(text(narrower)).root
    cut = type(root)(root.location, root.identifier, root.caveats[:-1], root.signature)
    assert FarEnd(clock).admits(encode_token(cut), RIGHT) is Reason.BAD_SIGNATURE


def test_what_the_parent_says_is_not_said_twice() -> None:
    """A caveat that the parent has word for word is left out; all others are added in order."""
    clock, _, narrower = setting("org = acme", PARENT)
    added = [c.cid.decode() for c in parse_token(text(narrower)).root.caveats]
    assert added == [
        "org = acme",
        PARENT,
        "app = web",
        "machine = 3d8d9014",
        "action = secrets:read",
        f"time < {rfc3339(clock.unix_ms() + FETCH_LIFE_S * 1000)}",
    ]


def test_never_past_the_parent_s_end() -> None:
    """The narrowed token ends with its parent when that is sooner."""
    clock = ManualClock()
    end_ms = clock.unix_ms() + 20_000
    narrower = Narrower(token(f"time < {rfc3339(end_ms)}"), clock, ServerClock(clock))
    assert narrower.ends_ms == end_ms
    narrowed = narrower.narrow(WEB)
    assert narrowed.ends_boot_s - clock.boot_s() == 20
    times = [
        c.cid for c in parse_token(narrowed.text.reveal().decode()).root.caveats if b"time" in c.cid
    ]
    assert times == [f"time < {rfc3339(end_ms)}".encode()]


def test_reused_until_half_its_life() -> None:
    """The same text for 29 s, a new one from 30 s; a watch's for half an hour."""
    clock, _, narrower = setting()
    first, stream = text(narrower), text(narrower, Scope("acme", "web", None, WATCH_LIFE_S))
    clock.advance(29.9)
    assert text(narrower) == first
    clock.advance(0.1)
    assert text(narrower) != first
    clock.advance(WATCH_LIFE_S / 2 - 31)
    assert text(narrower, Scope("acme", "web", None, WATCH_LIFE_S)) == stream
    clock.advance(2)
    assert text(narrower, Scope("acme", "web", None, WATCH_LIFE_S)) != stream


def test_not_shared_between_machines_and_apps() -> None:
    """Each scope has its own copy."""
    _, _, narrower = setting()
    scopes = [WEB, Scope("acme", "web", None), Scope("acme", "web", "b"), Scope("acme", "api", "b")]
    assert len({text(narrower, scope) for scope in scopes}) == len(scopes)


def test_kept_copies_are_bounded() -> None:
    """A host that boots many machines keeps the most recent copies only."""
    _, _, narrower = setting()
    for at in range(KEPT_MAX + 10):
        narrower.narrow(Scope("acme", "web", f"m{at}"))
    assert len(narrower._kept) == KEPT_MAX
    assert Scope("acme", "web", "m0") not in narrower._kept


def test_discharges_are_bound_to_the_narrowed_root() -> None:
    """A token kept with its discharges unbound is sent with them bound to what is sent."""
    clock = ManualClock()
    root, discharge = parse_token(token()).root, parse_token(token("user = a@example.com")).root
    narrower = Narrower(encode_token(root, [discharge]), clock, ServerClock(clock))
    sent = parse_token(text(narrower))
    assert sent.discharges[0].caveats == discharge.caveats
    assert sent.discharges[0].signature != discharge.signature


def test_a_discharge_s_end_counts_too() -> None:
    """The whole ends with whichever part ends first."""
    clock = ManualClock()
    root, discharge = parse_token(token(PARENT)).root, parse_token(token()).root
    soon = attenuate(discharge, [f"time < {rfc3339(clock.unix_ms() + 9_000)}"])
    narrower = Narrower(encode_token(root, [soon]), clock, ServerClock(clock))
    assert narrower.ends_ms == clock.unix_ms() + 9_000


@pytest.mark.parametrize(("given", "reason"), [("hunter2", "MALFORMED"), ("", "MALFORMED")])
def test_text_that_is_no_token(given: str, reason: str) -> None:
    """A bad token is found when the reader is made, and not quoted."""
    clock = ManualClock()
    with pytest.raises(PetsemError) as caught:
        Narrower(given, clock, ServerClock(clock))
    assert (caught.value.code, caught.value.detail.reason) == (Code.UNAUTHENTICATED, reason)
    assert "hunter2" not in str(caught.value)


def test_a_truncated_paste() -> None:
    """A token that lost its end is told apart from one that never was."""
    clock = ManualClock()
    with pytest.raises(PetsemError) as caught:
        Narrower(token()[:-3], clock, ServerClock(clock))
    assert caught.value.detail.reason == "TRUNCATED"


def test_a_token_with_no_room_left() -> None:
    """A token that is full cannot be narrowed, so it is not sent at all."""
    clock = ManualClock()
    narrower = Narrower(token(*["org = acme"] * 62), clock, ServerClock(clock))
    with pytest.raises(PetsemError) as caught:
        narrower.narrow(WEB)
    assert caught.value.code is Code.INVALID


class Wall(ManualClock):
    """A wall clock that somebody sets while boot time goes on."""

    def set_back(self, seconds: float) -> None:
        self._unix_ms -= round(seconds * 1000)


def test_server_time_runs_on_boot_time() -> None:
    """Setting this machine's clock after a reply changes nothing."""
    clock = Wall()
    server_clock = ServerClock(clock)
    server_clock.learn(clock.unix_ms() + 1_000)
    expected = clock.unix_ms() + 11_000
    clock.advance(10)
    clock.set_back(5_000)
    assert server_clock.now_ms() == expected


@pytest.mark.parametrize("sign", [1, -1])
def test_a_lying_clock_moves_ours_two_hours_at_most(sign: int) -> None:
    """However often it lies, the offset to our wall clock stays capped."""
    clock = ManualClock()
    server_clock = ServerClock(clock)
    for _ in range(5):
        server_clock.learn(clock.unix_ms() + sign * 10 * OFFSET_MAX_MS)
    assert server_clock.now_ms() == clock.unix_ms() + sign * OFFSET_MAX_MS
    assert server_clock.is_capped(clock.unix_ms() + sign * (OFFSET_MAX_MS + 1))
    assert not server_clock.is_capped(clock.unix_ms() + sign * OFFSET_MAX_MS)


def test_no_time_teaches_nothing() -> None:
    """Absent and 0 both mean that a reply carried no time."""
    clock = ManualClock()
    server_clock = ServerClock(clock)
    server_clock.learn(None)
    server_clock.learn(0)
    assert (server_clock.now_ms(), server_clock.jumps) == (clock.unix_ms(), 0)


def test_copies_made_by_a_wrong_clock_are_void() -> None:
    """When a reply corrects the clock by much, what was made before it is not sent again."""
    clock, server_clock, narrower = setting()
    first = text(narrower)
    server_clock.learn(clock.unix_ms() - 3_000)
    assert text(narrower) == first
    server_clock.learn(clock.unix_ms() - 90 * 60_000)
    assert text(narrower) != first


def test_nothing_shows_the_token() -> None:
    """repr of what holds it has no part of it."""
    _, _, narrower = setting()
    narrowed = narrower.narrow(WEB)
    body = narrowed.text.reveal().decode()[8:40]
    assert all(body not in repr(each) for each in (narrowed, narrower))
