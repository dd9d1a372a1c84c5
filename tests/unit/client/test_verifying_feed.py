"""When a verifier forgets: what the feed of revocations says, and what its silence means."""

from __future__ import annotations

import dataclasses

import pytest

from petsem.errors import Code, PetsemError
from petsem_client import heard_revocations
from petsem_client.replies import BrokenReply
from petsem_client.verifying import ASK_AGAIN_S
from tests.unit.client.verifier_end import Verifier, why

# Revocation


def test_a_revoked_token_is_forgotten_with_its_copies() -> None:
    """Parent and narrower copies at once, and nobody else."""
    verifier = Verifier()
    token, other = verifier.node.issue(), verifier.node.issue()
    for text in (token.text, token.narrowed("app = web"), other.text):
        assert verifier.ask(text).allowed
    verifier.hear(verifier.node.revoke(token))
    for text in (token.text, token.narrowed("app = web"), token.narrowed("app in web, x")):
        assert why(verifier.ask(text))[:2] == (False, "REVOKED")
    assert not verifier.asked(other.text)[1]
    assert verifier.state.stats().evicted == 1


def test_a_copy_that_was_asked_about_itself() -> None:
    """A narrower copy that came first is an entry of its own, and goes with its nonce."""
    verifier = Verifier()
    token = verifier.node.issue()
    narrow = token.narrowed("app = web")
    assert verifier.ask(narrow).allowed
    assert verifier.ask(token.text).allowed
    verifier.hear(verifier.node.revoke(token))
    assert why(verifier.ask(narrow))[:2] == (False, "REVOKED")
    assert verifier.state.stats().evicted == 2


def test_an_answer_from_before_a_revocation_that_was_heard() -> None:
    """It was computed first and comes second: what the feed has said counts."""
    verifier = Verifier()
    token = verifier.node.issue()
    question = verifier.question(token.text)
    answer = verifier.answer(question)
    verifier.hear(verifier.node.revoke(token))
    assert why(verifier.state.learned(question, answer))[:2] == (False, "REVOKED")
    assert why(verifier.ask(token.text))[:2] == (False, "REVOKED")


def test_several_revocations_in_one_transaction() -> None:
    """All but the last carry the position before it; until the last came, nothing is remembered."""
    verifier = Verifier()
    token, other = verifier.node.issue(), verifier.node.issue()
    question = verifier.question(token.text)
    answer = verifier.answer(question)
    before = verifier.node.position
    verifier.hear(verifier.node.revoke(token)._replace(position=before))
    verifier.state.learned(question, answer)
    assert why(verifier.ask(token.text))[:2] == (False, "REVOKED")
    verifier.node.txid -= 1
    verifier.hear(verifier.node.revoke(other))
    verifier.state.learned(question, answer)
    assert why(verifier.ask(token.text))[:2] == (False, "REVOKED")


def test_a_node_that_is_behind_the_feed() -> None:
    """Its answers are given and not remembered, until it has what the feed has told."""
    verifier = Verifier()
    token, gone = verifier.node.issue(), verifier.node.issue()
    verifier.hear(verifier.node.revoke(gone))
    verifier.node.txid -= 1
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, True]
    verifier.node.txid += 1
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, False]


def test_a_node_that_has_not_heard_of_a_revocation() -> None:
    """The feed told it, and the next call lands on a node that lags: the token and a copy that
    nobody has seen are refused there too, also with the feed silent or begun anew; others not."""
    verifier = Verifier()
    token, other = verifier.node.issue(), verifier.node.issue()
    assert verifier.ask(token.text).allowed
    told = verifier.node
    behind = dataclasses.replace(told, revoked={}, lag_ms=25_000)
    verifier.hear(told.revoke(token))
    verifier.node = behind

    def refused() -> None:
        for text in (token.text, token.narrowed("app = web")):
            assert why(verifier.ask(text))[:2] == (False, "REVOKED")
        assert verifier.ask(other.text).allowed

    refused()
    verifier.clock.advance(verifier.state.feed_timeout_s + 1)
    refused()
    verifier.state.lost()
    verifier.state.opened()
    behind.lag_ms = 0
    verifier.hear(behind.heartbeat())
    refused()


def test_more_revocations_than_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was forgotten nothing is allowed by a node that may not know it, whoever asks; one
    that is past it decides."""
    monkeypatch.setattr(heard_revocations, "GENERATION_MAX", 2)
    verifier = Verifier()
    tokens = [verifier.node.issue() for _ in range(6)]
    told = verifier.node
    before = dataclasses.replace(told, revoked={})
    for token in tokens[:5]:
        verifier.hear(told.revoke(token))
    verifier.node = before
    assert [why(verifier.ask(token.text))[1] for token in tokens[2:5]] == ["REVOKED"] * 3
    for token in (*tokens[:2], tokens[5]):
        with pytest.raises(PetsemError) as refused:
            verifier.ask(token.text)
        assert refused.value.code is Code.STALE
    before.revoked = {token.nonce: 1 for token in tokens[:2]}
    before.txid += 3
    assert [verifier.ask(token.text).allowed for token in tokens] == [False] * 5 + [True]


def test_signs_of_life_do_not_stop_remembering() -> None:
    """A node that commits all the time sends many; answers from between them are kept."""
    verifier = Verifier()
    token = verifier.node.issue()
    question = verifier.question(token.text)
    answer = verifier.answer(question)
    verifier.node.txid += 5
    verifier.hear(verifier.node.heartbeat())
    verifier.state.learned(question, answer)
    assert not verifier.asked(token.text)[1]


# The feed is cut


def test_without_the_feed_nothing_is_remembered() -> None:
    """Before it was heard from, each token is asked for."""
    verifier = Verifier(live=False)
    token = verifier.node.issue()
    assert [verifier.asked(token.text)[1] for _ in range(3)] == [True] * 3
    verifier.state.opened()
    verifier.hear(verifier.node.heartbeat())
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, False]


def test_a_feed_that_is_cut_drops_everything() -> None:
    """At the bound, and not a moment before; back when it is heard again, empty."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    verifier.clock.advance(30.0)
    assert not verifier.asked(token.text)[1]
    verifier.clock.advance(0.001)
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, True]
    assert (verifier.state.stats().dropped, len(verifier.state)) == (1, 0)
    verifier.hear(verifier.node.heartbeat())
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, False]


def test_a_node_that_is_cut_off_itself() -> None:
    """Its feed goes on, but says that its data is old: that keeps nothing alive."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    for lag_s in (10, 20, 30):
        verifier.clock.advance(10)
        verifier.node.lag_ms = lag_s * 1000
        verifier.hear(verifier.node.heartbeat())
    assert not verifier.asked(token.text)[1]
    verifier.clock.advance(1)
    verifier.node.lag_ms = 31_000
    verifier.hear(verifier.node.heartbeat())
    assert verifier.asked(token.text)[1]
    verifier.node.lag_ms = None
    verifier.hear(verifier.node.heartbeat())
    assert verifier.asked(token.text)[1]


def test_a_connection_that_holds_messages_back() -> None:
    """What was sent 31 s ago says nothing of now, however late it comes."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    verifier.clock.advance(10)
    old = verifier.node.heartbeat()
    verifier.clock.advance(31)
    verifier.hear(old)
    assert verifier.asked(token.text)[1]


def test_a_caller_that_wants_it_fresher() -> None:
    """`max_staleness_s` bounds what is remembered as it does what a node has."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    verifier.clock.advance(5)
    before = verifier.node.asked
    verifier.ask(token.text, max_staleness_s=5)
    assert verifier.node.asked == before
    verifier.ask(token.text, max_staleness_s=4)
    assert verifier.node.asked == before + 1


def test_a_failover_drops_everything() -> None:
    """Answers may have come from transactions that are gone."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    verifier.node.epoch, verifier.node.txid = 2, 11
    verifier.hear(verifier.node.heartbeat())
    assert verifier.asked(token.text)[1]
    assert verifier.state.stats().dropped == 1
    assert not verifier.asked(token.text)[1]
    other = verifier.node.issue()
    verifier.node.epoch, verifier.node.txid = 1, 99
    assert [verifier.asked(other.text)[1] for _ in range(2)] == [True, True]


def test_a_feed_that_goes_backwards() -> None:
    """No node that is behind can go on with it."""
    verifier = Verifier()
    verifier.node.txid -= 1
    with pytest.raises(BrokenReply):
        verifier.hear(verifier.node.heartbeat())


def test_a_position_that_is_lost() -> None:
    """Everything is dropped, and nothing remembered until the feed has begun anew."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    verifier.state.lost()
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, True]
    verifier.state.opened()
    verifier.hear(verifier.node.heartbeat())
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, False]


# What it does not tell


def test_what_the_feed_does_not_tell_is_asked_again() -> None:
    """An org that was deleted is noticed after a minute; a copy's answer is its parent's too."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    for _ in range(6):
        verifier.clock.advance(ASK_AGAIN_S / 6)
        verifier.hear(verifier.node.heartbeat())
    narrow = token.narrowed("app = web")
    assert verifier.asked(narrow)[1]
    assert not verifier.asked(token.text)[1]
    assert not verifier.asked(token.narrowed("app in web, x"))[1]
