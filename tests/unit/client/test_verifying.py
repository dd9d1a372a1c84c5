"""What a verifier remembers and when it forgets, as stories with a node that is never asleep."""

from __future__ import annotations

import base64
import dataclasses

import pytest

from petsem.clock import rfc3339
from petsem.errors import Code, PetsemError
from petsem.limits import GRPC_MESSAGE_MAX_BYTES, VERIFY_BATCH_MAX
from petsem.model import Kind
from petsem.tokens.macaroon import Caveat, Macaroon, attenuate, bind_discharge, encode
from petsem.tokens.text import UnverifiedToken, encode_part, encode_token, parse_token
from petsem.tokens.ticket import discharge
from petsem.wire import petsem_pb2 as pb
from petsem_client.replies import BrokenReply
from petsem_client.verdicts import Question, Verdict, VerdictSource
from petsem_client.verified_cache import ENTRY_BASE_BYTES, PARENTS_MAX, REFUSED_MAX, REFUSED_S
from petsem_client.verifying import ASK_AGAIN_S, VerifierStats, in_batches
from tests.unit.client.verifier_end import CAVEAT_KEY, LIFE_S, READ, Issued, Verifier

ALICE = "alice@example.com"


def why(verdict: Verdict) -> tuple[bool, str, str, str]:
    """All that a refusal says."""
    return verdict.allowed, verdict.reason, verdict.caveat, verdict.message


def person(verifier: Verifier) -> Issued:
    """Alice's token, which needs her discharge."""
    return verifier.node.issue(kind=Kind.PERSON, person=ALICE)


def text_of(root: Macaroon, *discharges: Macaroon) -> str:
    return encode_token(root, discharges)


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


def test_a_clock_that_cannot_be_followed() -> None:
    """Beyond two hours apart nobody here can say what the node would: each token is asked for."""
    verifier = Verifier()
    token = verifier.node.issue(life_s=4 * LIFE_S)
    assert verifier.ask(token.text).allowed
    verifier.node.skew_ms = 3 * 3_600_000
    verifier.hear(verifier.node.heartbeat())
    assert not verifier.state.is_live
    assert [verifier.asked(token.text)[1] for _ in range(2)] == [True, True]


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
    """It was computed first and comes second: it is given, and not remembered."""
    verifier = Verifier()
    token = verifier.node.issue()
    question = verifier.question(token.text)
    answer = verifier.answer(question)
    verifier.hear(verifier.node.revoke(token))
    assert verifier.state.learned(question, answer).allowed
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


def test_copies_of_one_token_do_not_make_it_slow() -> None:
    """Only the widest are tried as parents, and the widest stays one."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.narrowed("app = web", "x in 1, 2"), {**READ, "x": "1"})
    verifier.ask(token.text)
    for at in range(2 * PARENTS_MAX):
        # Bare base64 of another library's location: not known as a copy, so it is an entry.
        narrow = parse_token(token.narrowed("app = web", f"y in {at}, 9")).root
        other = dataclasses.replace(narrow, location=b"elsewhere")
        text = _letters(encode(other))
        assert verifier.asked(text, {**READ, "y": "9"})[1]
    (family,) = verifier.state._cache._families.values()
    assert len(family.parents) == PARENTS_MAX
    assert not verifier.asked(token.narrowed("app in web, z"))[1]


# Attacks


def attacks(verifier: Verifier) -> dict[str, str]:
    """Texts made from a token of Alice's that is remembered, by somebody without its key."""
    token, other = person(verifier), person(verifier)
    for each in (token, other):
        assert verifier.ask(each.text).allowed
    parsed = parse_token(token.narrowed("app = web", "x = 1", discharge=("y = 1",)))
    root, unbound = parsed.root, token.discharge
    assert unbound is not None
    assert other.discharge is not None
    bound = parsed.discharges[0]
    forged = discharge(unbound.identifier, b"attacker's" + bytes(22), [f"user = {ALICE}"])

    def caveats(*kept: Caveat) -> str:
        return text_of(dataclasses.replace(root, caveats=kept), bound)

    def cut(cut_root: Macaroon) -> str:
        return text_of(cut_root, bind_discharge(cut_root, unbound))

    *first, x = root.caveats
    own = first[0]
    return {
        "removed": caveats(*first),
        "removed, rebound": cut(dataclasses.replace(root, caveats=tuple(first))),
        "all that was added": cut(dataclasses.replace(token.root, signature=root.signature)),
        "of the parent removed": caveats(*root.caveats[1:]),
        "reordered": caveats(*first[:-1], x, first[-1]),
        "edited": caveats(*first, Caveat(b"x = 2")),
        "edited in the parent": caveats(Caveat(b"org = beta"), *root.caveats[1:]),
        "duplicated": caveats(*root.caveats, x),
        "duplicated of the parent": caveats(own, *root.caveats),
        "another token's discharge": text_of(root, bind_discharge(root, other.discharge)),
        "bound to another root": text_of(root, bind_discharge(other.root, unbound)),
        "bound to the parent": text_of(root, bind_discharge(token.root, unbound)),
        "not bound": text_of(root, unbound),
        "made by somebody": text_of(root, bind_discharge(root, forged)),
        "caveat of the discharge removed": text_of(
            root, dataclasses.replace(bound, caveats=unbound.caveats)
        ),
        "missing": encode_token(root),
        "twice": text_of(root, bound, bound),
        "extra": text_of(root, bound, bind_discharge(root, other.discharge)),
        "forged tail": cut(dataclasses.replace(root, signature=bytes(32))),
        "forged discharge": text_of(root, dataclasses.replace(bound, signature=bytes(32))),
        "a third party's, signed as one's own": cut(
            dataclasses.replace(
                attenuate(root, ["z = 1"]), caveats=(*root.caveats, Caveat(b"z = 1", bytes(72)))
            )
        ),
    }


def test_no_attack_is_taken_for_a_copy() -> None:
    """Each is asked about, and the node refuses it."""
    verifier = Verifier()
    access = {**READ, "x": "1", "y": "1", "z": "1"}
    for name, text in attacks(verifier).items():
        verdict, asked = verifier.asked(text, access)
        assert (name, verdict.allowed, asked) == (name, False, True)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_last_bytes_of_the_parent_count(length: int) -> None:
    """Those that share a group of letters with what was added, too."""
    verifier = Verifier()
    # The end is the same for all, and the caveat before it has another length.
    token = verifier.node.issue(f"app in web, {'a' * length}")
    assert verifier.ask(token.text).allowed
    end = len(encode(token.root)) - 35
    binary = encode(attenuate(token.root, ["app = web"]))
    assert not verifier.asked(_letters(binary))[1]
    for at in range(end - 4, end):
        altered = bytearray(binary)
        altered[at] ^= 1
        verdict, _ = verifier.asked(_letters(bytes(altered)))
        assert (at, verdict.allowed) == (at, False)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 10 * 1024 * 1024, "MALFORMED"),
        ("petsem_" + "\udcff" * 50, "MALFORMED"),
        ("petsem_AgEG\udc80", "MALFORMED"),
        ("ü" * 100, "MALFORMED"),
        ("", "MALFORMED"),
        ("," * 6_000, "TRUNCATED"),
    ],
)
def test_text_that_is_no_token(text: str, reason: str) -> None:
    """Refused here, by the node's own parser; nothing of it is sent, quoted or kept."""
    verifier = Verifier()
    verdict, asked = verifier.asked(text)
    assert (verdict.reason, asked, verdict.source) == (reason, False, VerdictSource.CACHE)
    assert len(verdict.message) < 200
    assert not verifier.state._cache._refused


def test_ten_thousand_caveats() -> None:
    """On a copy of what is remembered: too long as text, and too many in 6 KiB."""
    verifier = Verifier()
    token = verifier.node.issue()
    verifier.ask(token.text)
    root = token.root
    many = dataclasses.replace(root, caveats=(*root.caveats, *[Caveat(b"x = 1")] * 10_000))
    body = _bare(many)
    assert verifier.asked(body)[0].reason == "MALFORMED"
    few = dataclasses.replace(root, caveats=(*root.caveats, *[Caveat(b"x = 1")] * 63))
    verdict, asked = verifier.asked(_bare(few))
    assert (verdict.reason, asked) == ("MALFORMED", False)


@pytest.mark.parametrize(("count", "reason"), [(30, ""), (31, "MALFORMED")])
def test_the_caveats_of_root_and_discharge_together(count: int, reason: str) -> None:
    """64 are allowed, as at the node, however they are spread."""
    verifier = Verifier()
    token = person(verifier)
    verifier.ask(token.text)
    assert token.discharge is not None
    root = attenuate(token.root, ["app = web"] * count)
    bound = bind_discharge(root, attenuate(token.discharge, ["app = web"] * 30))
    verdict, asked = verifier.asked(f"{encode_part(root)},{encode_part(bound)}")
    assert (verdict.reason, asked) == (reason, False)


def _bare(root: Macaroon) -> str:
    """The base64 of a macaroon with more caveats than `encode` takes."""
    head = encode(dataclasses.replace(root, caveats=root.caveats[:2]))[:-35]
    rest = b"".join(b"\x02" + bytes((len(c.cid),)) + c.cid + b"\x00" for c in root.caveats[2:])
    return _letters(head + rest + b"\x00\x06\x20" + root.signature)


def _letters(binary: bytes) -> str:
    return base64.urlsafe_b64encode(binary).decode().rstrip("=")


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
