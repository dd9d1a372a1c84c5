"""One call's way round the nodes: order, patience and the deadline."""

from __future__ import annotations

import random

from petsem_client.endpoints import Endpoint, Rotation
from petsem_client.tour import Ask, Patience, Pause, Tour

ONE, TWO, THREE = (Endpoint(f"127.0.0.{at}", 1) for at in (1, 2, 3))


def tour(*endpoints: Endpoint, whole_s: float | None = 10.0, may_wait: bool = False) -> Tour:
    jitter = random.Random(7)
    return Tour(Rotation(endpoints, jitter), Patience(whole_s, 1.5, 2.0, may_wait), jitter, 0.0)


def test_everyone_once_and_then_a_pause() -> None:
    """A round asks each node for 1.5 s at most; the next round waits a moment and doubles that."""
    going = tour(ONE, TWO)
    assert going.next(0.0) == Ask(ONE, 1.5)
    assert going.next(1.5) == Ask(TWO, 1.5)
    pause = going.next(3.0)
    assert isinstance(pause, Pause)
    assert 0.05 <= pause.seconds <= 0.1
    assert going.next(3.1) == Ask(ONE, 3.0)
    assert going.next(6.1) == Ask(TWO, 3.0)


def test_no_attempt_passes_the_deadline() -> None:
    """The last attempt has what is left, and with nothing left there is none."""
    going = tour(ONE, TWO, whole_s=2.0)
    assert going.next(0.0) == Ask(ONE, 1.5)
    assert going.next(1.5) == Ask(TWO, 0.5)
    assert going.next(2.0) is None


def test_no_pause_passes_the_deadline() -> None:
    """When the pause would outlast the call, the call is over now."""
    going = tour(ONE, TWO, whole_s=1.0)
    going.next(0.0)
    going.next(0.5)
    assert going.next(0.97) is None


def test_the_last_hope_has_all_the_time() -> None:
    """One node alone, or the only one left, is not cut short to be asked again."""
    assert tour(ONE).next(0.0) == Ask(ONE, 10.0)
    going = tour(ONE, TWO)
    going.next(0.0)
    going.give_up_on(ONE)
    assert going.next(1.0) == Ask(TWO, 9.0)


def test_a_fenced_read_gives_each_node_its_share() -> None:
    """A node that rightly waits for the write is not cut off after 1.5 s."""
    going = tour(ONE, TWO, THREE, whole_s=12.0, may_wait=True)
    assert going.next(0.0) == Ask(ONE, 4.0)
    assert going.next(4.0) == Ask(TWO, 4.0)
    assert going.next(8.0) == Ask(THREE, 4.0)


def test_the_hopeless_are_not_asked_again() -> None:
    """A node given up on is left out of later rounds, and with all given up the call is over."""
    going = tour(ONE, TWO)
    going.next(0.0)
    going.give_up_on(ONE)
    going.next(0.0)
    assert isinstance(going.next(0.0), Pause)
    assert going.next(0.1) == Ask(TWO, 9.9)
    going.give_up_on(TWO)
    assert going.next(0.2) is None


def test_pauses_grow_and_end_growing() -> None:
    """The pause doubles from a tenth of a second to its most, jittered, without a deadline too."""
    going = tour(ONE, whole_s=None)
    pauses = []
    for _ in range(40):
        step = going.next(0.0)
        if isinstance(step, Pause):
            pauses.append(step.seconds)
    assert pauses[0] <= 0.1
    assert all(1.0 <= pause <= 2.0 for pause in pauses[6:])


def test_again_is_the_same_node_in_the_time_left() -> None:
    """A token narrowed once more goes to the same node, unless time is up."""
    going = tour(ONE, TWO)
    going.next(0.0)
    assert going.again(ONE, 9.0) == Ask(ONE, 1.0)
    assert going.again(ONE, 10.0) is None
