"""What is taken of reports, from whom, which of two stays, and who is told of it."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from petsem import limits
from petsem.clock import ManualClock
from petsem.server.replica.hearsay import FRESH_S, PATH_MAX, Hearsay, Teller
from petsem.wire import petsem_pb2 as pb

MEMBERS = {"own", "up", "top", "a", "b", "c", "d"}
WAY = ("own", "up", "top")


class World:
    """One node's hearsay: it follows `up`, which follows `top`; `a` and `b` follow it."""

    def __init__(self, members: set[str] | None = MEMBERS) -> None:
        self.clock = ManualClock()
        self.members = members
        self.way: tuple[str, ...] = WAY
        self.hearsay = Hearsay("own", self.clock, lambda: self.members, lambda: self.way)
        self.up = Teller("up", follows=False)
        self.a, self.b = Teller("a", follows=True), Teller("b", follows=True)

    def take(self, teller: Teller, node: str, *path: str, **fields: object) -> bool:
        report = pb.NodeReport(node=node, path=path, **fields)  # type: ignore[arg-type]
        return self.hearsay.take(teller, report)

    def version(self, node: str) -> str:
        heard = self.hearsay.of(node)
        assert heard is not None
        return heard.report.version


def test_the_path_is_whom_it_came_from() -> None:
    """Not what the node says; each hop is the one whose certificate was seen."""
    world = World()
    assert world.take(world.a, "a", "x", "own", "top")
    assert world.take(world.a, "c", "c", "d")
    for node, path in (("a", ["a"]), ("c", ["c", "d", "a"])):
        heard = world.hearsay.of(node)
        assert heard is not None
        assert list(heard.report.path) == path


@pytest.mark.parametrize(
    ("node", "path"),
    [
        # Of nobody, of this node, and of names that are none.
        ("", []),
        ("own", []),
        ("N 3", ["N 3"]),
        ("c", ["c", "N 3"]),
        # That does not begin where it comes from.
        ("c", []),
        ("c", ["d"]),
        ("c", ["d", "c"]),
        # In a circle.
        ("c", ["c", "own"]),
        ("c", ["c", "a"]),
        ("c", ["c", "d", "c"]),
        ("c", ["c", *"fghij"]),
        # Of a node that this one follows, from behind.
        ("up", ["up"]),
        ("top", ["top"]),
    ],
)
def test_what_cannot_be_is_dropped(node: str, path: list[str]) -> None:
    """And the log hears of it once for each stream."""
    world = World()
    with capture_logs() as logged:
        for _ in range(3):
            assert not world.take(world.a, node, *path)
    assert [(each["event"], each["told_by"]) for each in logged] == [("node_report_dropped", "a")]
    assert not world.hearsay._heard


def test_the_longest_way_is_one() -> None:
    """Up, and down again."""
    world = World()
    path = ["c", *"efghijk"][: PATH_MAX - 1]
    assert world.take(world.up, "c", *path)


def test_what_is_too_large_is_dropped() -> None:
    """Whichever way it comes."""
    world = World()
    for teller in (world.a, world.up):
        assert not world.take(teller, "c", "c", last_error="x" * limits.NODE_REPORT_MAX_BYTES)


def test_who_is_no_member_is_nowhere() -> None:
    """Not taken, and no more known once the row is gone."""
    world = World()
    assert not world.take(world.a, "nobody", "nobody")
    assert world.take(world.a, "c", "c")
    world.members = MEMBERS - {"c"}
    assert (world.hearsay.known(), list(world.hearsay.behind())) == ({}, [])


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the members are not known; room is made of those that are none any more."""
    monkeypatch.setattr(limits, "NODES_MAX", 2)
    world = World(None)
    assert world.take(world.up, "x", "x")
    assert world.take(world.up, "y", "y")
    assert not world.take(world.up, "a", "a")
    assert world.take(world.up, "x", "x")
    assert world.hearsay.known() == {}
    world.members = MEMBERS
    assert world.take(world.up, "a", "a")
    assert list(world.hearsay.known()) == ["a"]


def test_the_younger_one_stays() -> None:
    """By how old it is said to be when it comes, whichever way that was."""
    world = World()
    assert world.take(world.a, "c", "c", version="1", age_ms=3_000)
    assert world.take(world.up, "c", "c", version="2", age_ms=2_000)
    assert not world.take(world.a, "c", "c", version="3", age_ms=2_500)
    world.clock.advance(1)
    assert world.version("c") == "2"
    assert world.take(world.a, "c", "c", version="4", age_ms=2_500)


def test_a_node_itself_knows_best() -> None:
    """As long as its stream is open, nobody speaks for it; after that, whoever hears it."""
    world = World()
    assert world.take(world.b, "b", version="own")
    world.clock.advance(5)
    assert not world.take(world.a, "b", "b", version="a's")
    world.b.open = False
    assert world.take(world.a, "b", "b", version="a's")


def test_a_liar_pins_nothing() -> None:
    """What he says is of now at the most, so the next honest word is younger."""
    world = World()
    assert world.take(world.a, "c", "c", version="lie")
    assert not world.take(world.up, "c", "c", version="true", age_ms=1)
    world.clock.advance(1)
    assert world.take(world.up, "c", "c", version="true", age_ms=500)


def test_age_is_by_this_machine_s_clock() -> None:
    """From when it came, with what was said of its age; a word too old is no news."""
    world = World()
    assert world.take(world.up, "c", "c", age_ms=1_500)
    world.clock.advance(2)
    heard = world.hearsay.of("c")
    assert heard is not None
    assert world.hearsay.age_ms(heard) == 3_500
    assert world.hearsay.counts(heard)
    assert not world.take(world.up, "d", "d", age_ms=round(FRESH_S * 1000) + 1)
    # What a node says of its own age is nothing: it says it now.
    assert world.take(world.a, "a", age_ms=2**32 - 1)
    world.clock.advance(FRESH_S - 3.5)
    assert world.hearsay.counts(heard)
    world.clock.advance(0.1)
    assert not world.hearsay.counts(heard)


def test_a_stream_that_has_ended_tells_no_more() -> None:
    """Its last words stay to be looked at, and go nowhere."""
    world = World()
    world.take(world.a, "a")
    world.take(world.a, "c", "c")
    assert [each for each, _ in world.hearsay.behind()] == ["a", "c"]
    world.a.open = False
    assert list(world.hearsay.known()) == ["a", "c"]
    assert list(world.hearsay.behind()) == []
    assert world.hearsay.upwards("up") == world.hearsay.downwards("b") == []


def _told(reports: list[pb.NodeReport]) -> list[tuple[str, list[str], int]]:
    return [(each.node, list(each.path), each.age_ms) for each in reports]


def test_who_is_told_what() -> None:
    """Those above hear of those behind, and those behind of everybody; nobody of himself, or what
    he has told. A word that is old is not passed on."""
    world = World()
    world.take(world.a, "a")
    world.take(world.a, "c", "c", "d", age_ms=1_000)
    world.take(world.up, "up")
    world.take(world.up, "top", "top")
    world.clock.advance(2)
    c = ("c", ["c", "d", "a"], 3_000)
    assert _told(world.hearsay.upwards("up")) == [("a", ["a"], 2_000), c]
    above = [("up", ["up"], 2_000), ("top", ["top", "up"], 2_000)]
    assert _told(world.hearsay.downwards("a")) == above
    assert _told(world.hearsay.downwards("b")) == [("a", ["a"], 2_000), c, *above]
    world.clock.advance(FRESH_S)
    assert world.hearsay.upwards("up") == world.hearsay.downwards("b") == []


def test_who_is_behind() -> None:
    """Nobody of whom only those above tell; and who leads the way now is told nothing of itself by
    what it said when it followed."""
    world = World()
    world.take(world.a, "a")
    world.take(world.up, "d", "d")
    assert [each for each, _ in world.hearsay.behind()] == ["a"]
    world.way = ("own", "b", "a")
    assert world.hearsay.upwards("b") == []


def test_a_report_does_not_go_round() -> None:
    """Over three nodes in a circle, each of which passes on what it hears, it ends where it began
    and grows no younger."""
    clock = ManualClock()
    names = ("a", "b", "c")
    every = {
        name: Hearsay(name, clock, members=lambda: MEMBERS, way=lambda name=name: (name,))  # type: ignore[misc]
        for name in names
    }
    streams = [
        (every[below], Teller(below, follows=True), every[above])
        for below, above in (("a", "b"), ("b", "c"), ("c", "a"))
    ]
    _, first, b = streams[0]
    assert b.take(first, pb.NodeReport(node="a"))
    for _ in range(5):
        clock.advance(1)
        for below, teller, above in streams:
            for report in below.upwards(to=""):
                above.take(teller, report)
    assert every["a"].of("a") is None
    heard = every["c"].of("a")
    assert heard is not None
    assert (list(heard.report.path), every["c"].age_ms(heard)) == (["a", "b"], 5_000)
