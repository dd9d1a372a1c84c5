"""Who is woken by what."""

from __future__ import annotations

from petsem.server.changes import POSITION, REVOCATIONS, Changes


def test_a_topic_wakes_its_waiters_and_those_of_the_position() -> None:
    """A commit wakes who waits for what it changed, and who waits for the node to get anywhere."""
    changes = Changes()
    with (
        changes.subscribed(1) as web,
        changes.subscribed(1) as web_too,
        changes.subscribed(2) as api,
        changes.subscribed(POSITION) as position,
    ):
        changes.publish({1})
        assert [e.is_set() for e in (web, web_too, api, position)] == [True, True, False, True]


def test_everybody_wakes_when_it_is_not_known_what_changed() -> None:
    """After an apply, or a COMMIT whose outcome is unknown, each waiter looks for himself."""
    changes = Changes()
    with changes.subscribed(1) as web, changes.subscribed(REVOCATIONS) as feed:
        changes.publish_all()
        assert web.is_set()
        assert feed.is_set()


async def test_streams_are_woken_together_after_applies() -> None:
    """At the first, and once more after all that came in the pause; who waits for one answer is
    woken by each; a commit that is known wakes them at once, in the pause too."""
    changes = Changes()
    with changes.subscribed(1) as waiter, changes.subscribed(1, stream=True) as stream:
        changes.publish_applied()
        assert (waiter.is_set(), stream.is_set()) == (True, True)
        for event in (waiter, stream):
            event.clear()
        for _ in range(3):
            changes.publish_applied()
        assert (waiter.is_set(), stream.is_set()) == (True, False)
        await stream.wait()
        stream.clear()
        changes.publish({1})
        assert stream.is_set()
    assert changes.authority == 4


def test_whoever_left_is_forgotten() -> None:
    """A topic without waiters takes no memory, however its last one left."""
    changes = Changes()
    try:
        with (
            changes.subscribed(1),
            changes.subscribed(1, stream=True),
            changes.subscribed(1) as event,
        ):
            raise KeyError
    except KeyError:
        pass
    changes.publish({1})
    assert not event.is_set()
    assert changes.waited_for == set()


def test_authority_moves_only_when_some_may_have_been_taken_away() -> None:
    """The count that lets a write trust an earlier verification goes up with revocations, and
    whenever it is not known what happened."""
    changes = Changes()
    changes.publish({1, 2})
    assert changes.authority == 0
    changes.publish({1, REVOCATIONS})
    assert changes.authority == 1
    changes.publish_all()
    assert changes.authority == 2
