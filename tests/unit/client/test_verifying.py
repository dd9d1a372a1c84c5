"""What a verifier remembers, and that it answers from it as the node would."""

from __future__ import annotations

import dataclasses
import gc
import tracemalloc

import pytest

from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError
from petsem.limits import CAVEATS_MINTED_MAX, GRPC_MESSAGE_MAX_BYTES, VERIFY_BATCH_MAX
from petsem.model import Kind
from petsem.tokens.text import UnverifiedToken, encode_token
from petsem.wire import petsem_pb2 as pb
from petsem_client.verdicts import Question, VerdictSource
from petsem_client.verified_cache import ENTRY_BASE_BYTES, REFUSED_MAX, REFUSED_S
from petsem_client.verifying import VerifierStats, in_batches
from tests.unit.client.verifier_end import ALICE, CAVEAT_KEY, LIFE_S, READ, Verifier, person, why

# Hits


def test_the_same_text_is_asked_about_once() -> None:
    """The second answer is the first one, from memory."""
    verifier = Verifier()
    text = person(verifier).text
    first, second = verifier.ask(text), verifier.ask(text)
    assert (first.source, second.source) == (VerdictSource.NODE, VerdictSource.CACHE)
    assert [getattr(first, f) for f in first.__struct_fields__ if f != "source"] == [
        getattr(second, f) for f in second.__struct_fields__ if f != "source"
    ]
    assert verifier.node.asked == 1
    assert verifier.state.stats() == VerifierStats(1, 0, 0, 1, 0, 0)


def test_a_narrower_copy_hits_too() -> None:
    """Also with its discharge narrowed and bound to it; it ends when its own caveats say."""
    verifier = Verifier()
    token = person(verifier)
    verifier.ask(token.text)
    soon = f"time < {rfc3339(verifier.clock.unix_ms() + 60_000)}"
    for narrow in (
        token.narrowed(soon, "app = web"),
        token.narrowed("app in web, api", discharge=(soon,)),
        token.narrowed(),
    ):
        verdict, asked = verifier.asked(narrow)
        assert (verdict.allowed, asked) == (True, False)
        bound_ms = verifier.clock.unix_ms() + (60_000 if soon in str(verdict) else 0)
        assert verdict.expires_at_ms in (token.ends_ms, bound_ms + 60_000)
    assert verifier.ask(token.narrowed(soon)).expires_at_ms == verifier.clock.unix_ms() + 60_000
    assert verifier.ask(token.narrowed(discharge=(soon,))).expires_at_ms == (
        verifier.clock.unix_ms() + 60_000
    )


def test_refusals_of_what_is_remembered_are_the_node_s() -> None:
    """Reason, caveat and message, of the same text and of a narrower one, to the letter."""
    verifier = Verifier()
    token = person(verifier)
    verifier.ask(token.text)
    now_ms = verifier.clock.unix_ms()
    for text, access in (
        (token.text, {**READ, "org": "beta"}),
        (token.text, {**READ, "action": "nodes:read"}),
        (token.narrowed("app = api"), READ),
        (token.narrowed("user = bob@example.com"), READ),
        (token.narrowed(discharge=("machine = m1",)), READ),
        (token.narrowed("app = web", discharge=("app = api",)), READ),
        (token.narrowed(f"time < {rfc3339(now_ms)}"), READ),
        (token.narrowed(f"time >= {rfc3339(now_ms + 2_000)}"), READ),
        (
            token.narrowed("user = alice@example.com", "app = x"),
            {**READ, "user": "bob", "time": "1"},
        ),
    ):
        verdict, asked = verifier.asked(text, access)
        reply = verifier.node.verify(text, access)
        assert (verdict.allowed, asked) == (False, False)
        assert why(verdict)[1:] == (reply.reason, reply.caveat, reply.message)


def test_user_is_the_subject_s() -> None:
    """Whatever the API server says, and never for a token that is no person's."""
    verifier = Verifier()
    alice, deploy = person(verifier), verifier.node.issue()
    for token in (alice, deploy):
        verifier.ask(token.text)
    said = {**READ, "user": ALICE}
    assert verifier.ask(alice.narrowed(f"user = {ALICE}"), {**READ, "user": "bob"}).allowed
    verdict, asked = verifier.asked(deploy.narrowed(f"user = {ALICE}"), said)
    assert (verdict.reason, asked) == ("CAVEAT", False)


# Time


def test_time_passes_over_what_is_remembered() -> None:
    """A caveat's end ends the entry and its narrower copies at the same second as at the node."""
    verifier = Verifier()
    token = verifier.node.issue(life_s=50)
    narrow = token.narrowed(f"time < {rfc3339(verifier.clock.unix_ms() + 20_000)}")
    assert verifier.ask(token.text).allowed
    verifier.clock.advance(19.9)
    assert verifier.asked(narrow)[0].allowed
    verifier.clock.advance(0.1)
    verdict, asked = verifier.asked(narrow)
    assert (verdict.reason, asked) == ("EXPIRED", False)
    verifier.hear(verifier.node.heartbeat())
    verifier.clock.advance(29.9)
    assert verifier.asked(token.text) == (verifier.ask(token.text), False)
    verifier.clock.advance(0.1)
    verdict, asked = verifier.asked(token.text)
    assert (verdict.reason, asked) == ("EXPIRED", True)


def test_time_is_the_servers() -> None:
    """This machine's clock is an hour behind: a token that is over for the node is over here."""
    verifier = Verifier()
    verifier.node.skew_ms = 3_600_000
    verifier.hear(verifier.node.heartbeat())
    token = verifier.node.issue(life_s=2 * LIFE_S)
    assert verifier.ask(token.text).allowed
    narrow = token.narrowed(f"time < {rfc3339(verifier.clock.unix_ms() + 600_000)}")
    verdict, asked = verifier.asked(narrow)
    assert (verdict.reason, asked) == ("EXPIRED", False)


def test_time_is_not_turned_back() -> None:
    """A sign of life that was long on its way does not let a token live longer; an answer sets the
    time right in either direction."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    narrow = token.narrowed(f"time < {rfc3339(verifier.clock.unix_ms() + 15_000)}")
    late = verifier.node.heartbeat()
    verifier.clock.advance(20)
    verifier.hear(late)
    assert verifier.asked(narrow)[0].reason == "EXPIRED"
    verifier.node.skew_ms = -10_000
    verifier.ask(verifier.node.issue().text)
    assert verifier.ask(narrow).allowed


def test_a_node_that_does_not_tell_the_time() -> None:
    """Without it nobody here can say what has ended."""
    verifier = Verifier()
    token = verifier.node.issue()
    news = verifier.node.heartbeat()
    fresh = dataclasses.replace(news.freshness, server_time_ms=0)
    verifier.hear(news._replace(freshness=fresh))
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, False]
    verifier.hear(news._replace(freshness=fresh))
    assert not verifier.state.is_live


def test_a_clock_that_cannot_be_followed() -> None:
    """Beyond two hours apart nobody here can say what the node would: each token is asked for."""
    verifier = Verifier()
    token = verifier.node.issue(life_s=4 * LIFE_S)
    assert verifier.ask(token.text).allowed
    verifier.node.skew_ms = 3 * 3_600_000
    verifier.hear(verifier.node.heartbeat())
    assert not verifier.state.is_live
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, True]


# Orgs


def test_the_cluster_key_s_token_counts_for_the_orgs_it_was_asked_for() -> None:
    """Each org is asked about once."""
    verifier = Verifier()
    token = verifier.node.issue(kind=Kind.OPERATOR, org=None)
    asked = [
        verifier.asked(token.text, {**READ, "org": org})[1]
        for org in ("acme", "beta", "acme", "beta", "gamma")
    ]
    assert asked == [True, True, False, False, True]
    assert not verifier.asked(token.narrowed("app = web"), {**READ, "org": "beta"})[1]
    assert verifier.asked(token.narrowed("app = web"), {**READ, "org": "delta"})[1]


def test_an_org_s_verifier_keeps_nothing_of_the_cluster_key() -> None:
    """Its feed would not say that such a token was revoked."""
    verifier = Verifier(org="acme")
    operator, deploy = verifier.node.issue(kind=Kind.OPERATOR, org=None), verifier.node.issue()
    assert [verifier.asked(operator.text)[1] for _ in range(2)] == [True, True]
    assert [verifier.asked(deploy.text)[1] for _ in range(2)] == [True, False]


def test_an_org_s_verifier_is_for_that_org() -> None:
    """A question about another org is a mistake of the caller's, not a refusal."""
    verifier = Verifier(org="acme")
    with pytest.raises(PetsemError, match="acme only") as caught:
        verifier.ask(verifier.node.issue().text, {**READ, "org": "beta"})
    assert caught.value.code is Code.INVALID


@pytest.mark.parametrize(
    "access",
    [
        {},
        {"org": "acme"},
        {"action": "x"},
        {**READ, "org": "A!"},
        {**READ, "x" * 65: "1"},
        {**READ, "x": "1" * 256},
        {**READ, **{f"x{at}": "1" for at in range(64)}},
    ],
)
def test_an_access_that_cannot_be_judged(access: dict[str, str]) -> None:
    """An error before anything is looked up, remembered or not."""
    verifier = Verifier()
    text = verifier.node.issue().text
    verifier.ask(text)
    with pytest.raises(PetsemError) as caught:
        verifier.ask(text, access)
    assert caught.value.code is Code.INVALID


# Refusals are remembered for a moment


def test_what_no_node_knows_is_asked_once_in_two_seconds() -> None:
    """Whatever the access; a sign that something changed ends it at once."""
    verifier = Verifier()
    stranger = Verifier().node.issue("app = web")
    forged = encode_token(dataclasses.replace(stranger.root, signature=bytes(32)))
    first, asked = verifier.asked(forged)
    assert (first.reason, asked) == ("BAD_SIGNATURE", True)
    verdict, asked = verifier.asked(forged, {**READ, "action": "other"})
    assert (why(verdict), asked) == (why(first), False)
    verifier.clock.advance(REFUSED_S)
    assert verifier.asked(forged)[1]
    verifier.hear(verifier.node.heartbeat())
    assert not verifier.asked(forged)[1]
    verifier.node.txid += 1
    verifier.hear(verifier.node.heartbeat())
    assert verifier.asked(forged)[1]
    assert verifier.state.stats().negative_hits == 2


def test_a_token_that_a_node_has_not_heard_of_yet() -> None:
    """Its refusal, from behind the feed, is not repeated."""
    verifier = Verifier()
    verifier.node.txid += 1
    verifier.hear(verifier.node.heartbeat())
    verifier.node.txid -= 1
    token = verifier.node.issue()
    known = verifier.node.issued.pop(token.nonce)
    assert verifier.ask(token.text).reason == "NOT_ISSUED"
    verifier.node.issued[token.nonce] = known
    assert verifier.ask(token.text).allowed


def test_a_refusal_for_what_was_asked_is_not_one_for_all() -> None:
    """A caveat that denies one action says nothing of another."""
    verifier = Verifier()
    token = verifier.node.issue("action = web:read")
    assert verifier.ask(token.text, {**READ, "action": "web:write"}).reason == "CAVEAT"
    assert verifier.ask(token.text).allowed


# Bounds


def test_what_is_left_to_ask_fits_into_calls() -> None:
    """By org, 512 at most, and no more bytes than a message takes; places are kept."""
    verifier = Verifier()
    text = verifier.node.issue().text
    wide = {**READ, **{f"x{at}": "v" * 255 for at in range(40)}}
    questions = [
        verifier.question(text, {**access, "org": org})
        for access, count in ((READ, 600), (wide, 400))
        for org in ("acme", "beta")
        for _ in range(count // 2)
    ]
    batches = in_batches(questions)
    assert sorted(at for b in batches for at, _ in b.questions) == list(range(1_000))
    for batch in batches:
        assert {question.access["org"] for _, question in batch.questions} == {batch.org}
        assert all(questions[at] is question for at, question in batch.questions)
        assert len(batch.questions) <= VERIFY_BATCH_MAX
        request = pb.VerifyBatchRequest(requests=[q.message() for _, q in batch.questions])
        assert request.ByteSize() < GRPC_MESSAGE_MAX_BYTES
    assert len(batches) == 2
    many = in_batches([verifier.question(text)] * 513)
    assert [len(batch.questions) for batch in many] == [512, 1]
    large = in_batches([verifier.question(text, wide)] * 400)
    assert len(large) == 2
    assert in_batches([verifier.ask("")]) == []


def test_garbage_pushes_out_nothing_good() -> None:
    """However much of it comes; and of it, too, only so much is kept."""
    verifier = Verifier()
    good = verifier.node.issue()
    verifier.ask(good.text)
    for number in range(REFUSED_MAX + 10):
        root = dataclasses.replace(good.root, signature=number.to_bytes(32, "big"))
        verifier.ask(encode_token(root))
    assert not verifier.asked(good.text)[1]
    assert len(verifier.state._cache._refused) == REFUSED_MAX
    assert len(verifier.state) == 1


def test_what_is_kept_is_bounded() -> None:
    """The least recently used goes first; bytes count."""
    verifier = Verifier(cache_max_bytes=3 * (ENTRY_BASE_BYTES + 1_200))
    tokens = [verifier.node.issue() for _ in range(3)]
    for token in tokens:
        verifier.ask(token.text)
    verifier.ask(tokens[0].text)
    verifier.ask(verifier.node.issue().text)
    assert len(verifier.state) <= 3
    assert not verifier.asked(tokens[0].text)[1]
    assert verifier.asked(tokens[1].text)[1]
    nothing = Verifier(cache_max_bytes=0)
    text = nothing.node.issue().text
    assert [nothing.asked(text)[1] for _ in range(2)] == [True, True]


@pytest.mark.parametrize("caveats", [0, CAVEATS_MINTED_MAX - 1])
def test_what_is_kept_takes_no_more_memory_than_was_allowed(caveats: int) -> None:
    """Counted by what Python hands out, for tokens that say little and much."""
    most = 128 * ENTRY_BASE_BYTES
    verifier = Verifier(cache_max_bytes=most)
    spent = verifier.node.issue()
    verifier.ask(spent.text)
    names = [f"k{number}" for number in range(caveats)]
    access = {**READ, **dict.fromkeys(names, "v")}
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, 160):
            issued = verifier.node.issue(*(f"{name} = v" for name in names))
            assert verifier.ask(issued.text, access).allowed
            # The next one's nonce comes of how many there are.
            del verifier.node.issued[issued.nonce], issued
            verifier.node.issued[number.to_bytes()] = spent
        verifier.node.issued.clear()
        gc.collect()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert most // 2 < used <= most


# Nothing shown


def test_nothing_shows_a_token() -> None:
    """No repr of what holds one has a part of it."""
    verifier = Verifier()
    token = person(verifier)
    question = verifier.question(token.text)
    answer = verifier.answer(question)
    verifier.state.learned(question, answer)
    (entry,) = verifier.state._cache._entries.values()
    shown = " ".join(map(repr, (question, answer, entry, verifier.state, answer.verdict)))
    assert token.text[60:100] not in shown
    assert isinstance(question, Question)
    assert isinstance(question.token, UnverifiedToken)
    assert token.discharge is not None
    for secret in (token.root.signature, token.discharge.signature):
        assert repr(secret)[2:20] not in shown
        assert secret.hex()[:20] not in shown
    assert CAVEAT_KEY.hex() not in shown
