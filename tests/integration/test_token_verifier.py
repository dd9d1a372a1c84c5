"""The verifiers against real nodes: what is revoked on the leader is refused everywhere in seconds,
and a feed that is cut leaves nothing to be believed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pytest

from petsem.errors import Code, PetsemError
from petsem.tokens.identifier import Identifier
from petsem.tokens.macaroon import attenuate, bind_discharge
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.thirdparty import require_discharge
from petsem.tokens.ticket import discharge
from petsem_client import SyncTokenVerifier, TokenVerifier, Verdict, VerdictSource, VerifierStats
from tests.support.daemon import until
from tests.support.doors import Doors, in_seconds, narrowed
from tests.support.fleet import Fleet, Member, fleet

READ = {"org": "acme", "action": "web:read", "app": "web"}
SOON_S = 2.0
NODE, CACHE = VerdictSource.NODE, VerdictSource.CACHE


class Verifies(Protocol):
    """Either verifier, as blocking calls."""

    def verify(self, token: str, access: Mapping[str, str] = READ, **more: Any) -> Verdict: ...

    def verify_batch(self, questions: Sequence[tuple[str, Mapping[str, str]]]) -> list[Verdict]: ...

    def stats(self) -> VerifierStats: ...

    @property
    def is_live(self) -> bool: ...

    def close(self) -> None: ...


class Blocking:
    """The blocking one."""

    def __init__(self, endpoints: Sequence[str], **more: Any) -> None:
        self._inner = SyncTokenVerifier(endpoints, **more)

    def verify(self, token: str, access: Mapping[str, str] = READ, **more: Any) -> Verdict:
        return self._inner.verify(token, access, **more)

    def verify_batch(self, questions: Sequence[tuple[str, Mapping[str, str]]]) -> list[Verdict]:
        return self._inner.verify_batch(questions)

    def stats(self) -> VerifierStats:
        return self._inner.stats()

    @property
    def is_live(self) -> bool:
        return self._inner.is_live

    def close(self) -> None:
        self._inner.close()


class Looping:
    """The asyncio one, on a loop of its own."""

    def __init__(self, endpoints: Sequence[str], **more: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

        async def make() -> TokenVerifier:
            return TokenVerifier(endpoints, **more)

        self._inner: TokenVerifier = self._run(make())

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def verify(self, token: str, access: Mapping[str, str] = READ, **more: Any) -> Verdict:
        verdict: Verdict = self._run(self._inner.verify(token, access, **more))
        return verdict

    def verify_batch(self, questions: Sequence[tuple[str, Mapping[str, str]]]) -> list[Verdict]:
        verdicts: list[Verdict] = self._run(self._inner.verify_batch(questions))
        return verdicts

    def stats(self) -> VerifierStats:
        return self._inner.stats()

    @property
    def is_live(self) -> bool:
        async def look() -> bool:
            return self._inner.is_live

        return bool(self._run(look()))

    def close(self) -> None:
        if self._thread.is_alive():
            self._run(self._inner.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


Make = Callable[..., Verifies]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("verifiers"), replicas=1) as found:
        yield found


@pytest.fixture(params=[Looping, Blocking], ids=["asyncio", "blocking"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Verifies] = []

    def one(*members: Member, **more: Any) -> Verifies:
        endpoints = [f"127.0.0.1:{member.ports.grpc}" for member in members]
        made.append(request.param(endpoints, **more))
        return made[-1]

    yield one
    for verifier in made:
        verifier.close()


def mint(doors: Doors, *caveats: str, org: str | None = "acme") -> str:
    return doors.mint(org, *caveats)


def asker(doors: Doors, org: str | None = "acme") -> str:
    """An API server's own token."""
    return mint(doors, "action = tokens:verify", org=org)


def revoke(doors: Doors, token: str) -> None:
    nonce = Identifier.parse(parse_token(token).root.identifier).nonce.hex()
    doors.done("DELETE", f"/v1/orgs/acme/tokens/{nonce}")


def warm(verifier: Verifies, *tokens: str) -> None:
    """Until every token is answered from memory."""

    def look() -> bool:
        try:
            return all(verifier.verify(token).source is CACHE for token in tokens)
        except PetsemError as error:
            # A node that was just started is not connected to at once.
            if error.code is not Code.UNAVAILABLE:
                raise
            return False

    until(look, "answers from memory")


def within(seconds: float, look: Callable[[], bool]) -> float:
    """How long it took, which must be within that."""
    began_s = time.monotonic()
    while not look():
        assert time.monotonic() - began_s < seconds
        time.sleep(0.005)
    return time.monotonic() - began_s


@pytest.mark.parametrize("org", ["acme", None])
def test_a_revocation_on_the_leader_reaches_a_replica_s_verifier(
    nodes: Fleet, make: Make, org: str | None
) -> None:
    """Within two seconds the replica refuses the token, and so does the memory that it feeds: the
    token itself, a copy, and what was minted on its authority. Another token stays remembered."""
    (replica,) = nodes.replicas
    with nodes.leader.doors() as doors:
        parent = mint(doors, "action in web:read, tokens:mint")
        child = doors.mint("acme", "action = web:read", token=parent)
        other = mint(doors, "action = web:read")
        verifier = make(replica, token=asker(doors, org), org=org)
        warm(verifier, parent, child, other)
        copy = narrowed(parent, "app = web", in_seconds(60))
        before = verifier.stats()
        assert verifier.verify(copy).source is CACHE
        assert verifier.stats().child_hits == before.child_hits + 1
        revoke(doors, parent)
        within(SOON_S, lambda: not any(verifier.verify(t).allowed for t in (parent, child, copy)))
    with replica.doors() as doors:
        access = {"token": parent, "access": READ}
        within(
            SOON_S, lambda: doors.done("POST", "/v1/tokens/verify", access)["reason"] == "REVOKED"
        )
    assert {verifier.verify(token).reason for token in (parent, child, copy)} == {"REVOKED"}
    assert verifier.verify(other).source is CACHE
    assert verifier.stats().evicted == 2


def test_a_revocation_of_a_child(nodes: Fleet, make: Make) -> None:
    """What was minted on another's authority ends with its copies; the other stays remembered."""
    (replica,) = nodes.replicas
    with nodes.leader.doors() as doors:
        parent = mint(doors, "action in web:read, tokens:mint")
        child = doors.mint("acme", "action = web:read", token=parent)
        verifier = make(replica, token=asker(doors), org="acme")
        warm(verifier, parent, child)
        copy = narrowed(child, "app = web", in_seconds(60))
        assert verifier.verify(copy).source is CACHE
        revoke(doors, child)
        within(SOON_S, lambda: not any(verifier.verify(t).allowed for t in (child, copy)))
    assert {verifier.verify(token).reason for token in (child, copy)} == {"REVOKED"}
    verdict = verifier.verify(parent)
    assert (verdict.allowed, verdict.source) == (True, CACHE)
    assert verifier.stats().evicted == 1


def test_a_feed_that_is_cut(nodes: Fleet, make: Make) -> None:
    """The node is killed. Beyond the bound nothing is remembered, and there is no answer; when it
    is back, there is one again, and then from memory."""
    (replica,) = nodes.replicas
    with nodes.leader.doors() as doors:
        token, own = mint(doors, "action = web:read"), asker(doors)
    bound_s = 1.0
    # A sign of life comes only each ten seconds: with this bound, memory lasts a moment at a time.
    verifier = make(replica, token=own, org="acme", feed_timeout_s=bound_s, timeout_s=0.5)
    warm(verifier, token)
    replica.daemon.kill()
    try:
        until(lambda: not verifier.is_live, "the end of what is remembered")
        with pytest.raises(PetsemError) as caught:
            verifier.verify(token)
        assert caught.value.code is Code.UNAVAILABLE
        assert verifier.stats().dropped >= 1
    finally:
        replica.daemon.start()
        nodes.converged()
    warm(verifier, token)


def test_a_node_that_falls_silent(nodes: Fleet, make: Make) -> None:
    """It hangs, and its connections stand: its feed is given up for another node's."""
    (replica,) = nodes.replicas
    with nodes.leader.doors() as doors:
        token, own = mint(doors, "action = web:read"), asker(doors)
    verifier = make(replica, nodes.leader, token=own, org="acme", feed_timeout_s=1.0)
    warm(verifier, token)
    with replica.held():
        until(lambda: not verifier.is_live, "the end of what is remembered")
        warm(verifier, token)


def test_discharges(nodes: Fleet, make: Make) -> None:
    """Every door says what they were signed with before they were bound, of allowed tokens only;
    so a narrower copy, to which the discharge was bound anew, is known from memory."""
    key, ticket = b"k" * 32, b"ticket"
    with nodes.leader.doors() as doors:
        root = parse_token(mint(doors, "action = web:read")).root
        root = require_discharge(root, b"petsem", key, ticket)
        made = discharge(ticket, key, ["app in web, api"])
        token = encode_token(root, [bind_discharge(root, made)])
        asked = {"token": token, "access": READ}
        told = doors.done("POST", "/v1/tokens/verify", asked)
        assert told["discharge_signatures"] == [made.signature.hex()]
        denied = {"token": token, "access": {**READ, "app": "other"}}
        batch = doors.done("POST", "/v1/tokens/verify-batch", {"requests": [asked, denied]})
        told, refused = batch["responses"]
        assert told["discharge_signatures"] == [made.signature.hex()]
        assert "discharge_signatures" not in refused
        ran = doors.cli(
            *("token", "verify", "web:read", "-a", "acme/web", "--token-file", "-", "-o", "json"),
            stdin=token.encode(),
        )
        assert (ran.code, b'"allowed"' in ran.out) == (0, True), ran
        assert made.signature.hex().encode() not in ran.out
        verifier = make(nodes.leader, token=asker(doors), org="acme")
        warm(verifier, token)
        narrow = attenuate(root, ["app = web", in_seconds(60)])
        less = attenuate(made, ["machine = m1"])
        for each, access in ((made, READ), (less, {**READ, "machine": "m1"})):
            copy = encode_token(narrow, [bind_discharge(narrow, each)])
            verdict = verifier.verify(copy, access)
            assert (verdict.allowed, verdict.source) == (True, CACHE)
        assert verifier.verify(copy, READ).caveat == "machine = m1"
        stolen = encode_token(narrow, [bind_discharge(root, made)])
        verdict = verifier.verify(stolen)
        assert (verdict.reason, verdict.source) == ("DISCHARGE_INVALID", NODE)


def test_a_node_that_goes_away_is_replaced(nodes: Fleet, make: Make) -> None:
    """The feed goes on at the next node, from where it was: nothing is dropped, nothing missed."""
    (replica,) = nodes.replicas
    with nodes.leader.doors() as doors:
        token, other = mint(doors, "action = web:read"), mint(doors, "action = web:read")
        verifier = make(replica, nodes.leader, token=asker(doors), org="acme")
        warm(verifier, token, other)
        replica.daemon.kill()
        try:
            revoke(doors, token)
            until(lambda: not verifier.verify(token).allowed, "the revocation, from the leader")
            assert verifier.verify(other).source is CACHE
            assert verifier.stats().dropped == 0
        finally:
            replica.daemon.start()
            nodes.converged()


def test_a_batch(nodes: Fleet, make: Make) -> None:
    """What is remembered is not asked about; orgs are asked about apart; the order stays."""
    with nodes.leader.doors() as doors:
        token, other = mint(doors, "action = web:read"), mint(doors, "action = web:read")
        operator = mint(doors, "action = web:read", org=None)
        verifier = make(nodes.leader, token=asker(doors, None))
        warm(verifier, token)
        questions = [
            (token, READ),
            ("no token", READ),
            (other, READ),
            (operator, {**READ, "org": "elsewhere"}),
            (other, {**READ, "action": "web:write"}),
        ]
        verdicts = verifier.verify_batch(questions)
        assert [(v.allowed, v.reason, v.source) for v in verdicts] == [
            (True, "", CACHE),
            (False, "MALFORMED", CACHE),
            (True, "", NODE),
            (True, "", NODE),
            (False, "CAVEAT", NODE),
        ]
        verdicts = verifier.verify_batch(questions)
        assert {v.source for v in verdicts} == {CACHE}
        assert verifier.verify_batch([]) == []


def test_its_own_token_is_refused(nodes: Fleet, make: Make) -> None:
    """An error and never a verdict; also when it ends while tokens are remembered."""
    with nodes.leader.doors() as doors:
        token, own = mint(doors, "action = web:read"), asker(doors)
        reader = make(nodes.leader, token=token, org="acme")
        with pytest.raises(PetsemError) as caught:
            reader.verify(token)
        assert caught.value.code is Code.DENIED
        verifier = make(nodes.leader, token=own, org="acme")
        warm(verifier, token)
        revoke(doors, own)
        until(lambda: not verifier.is_live, "the end of the feed")
        with pytest.raises(PetsemError) as caught:
            verifier.verify(token)
        assert (caught.value.code, caught.value.detail.reason) == (Code.DENIED, "REVOKED")


def test_closed(nodes: Fleet, make: Make) -> None:
    """A verifier that is closed says so, also about what it remembered; twice is fine."""
    with nodes.leader.doors() as doors:
        token, own = mint(doors, "action = web:read"), asker(doors)
    endpoints = [f"127.0.0.1:{nodes.leader.ports.grpc}"]
    with SyncTokenVerifier(endpoints, token=own) as verifier:
        assert verifier.verify(token, READ).allowed
        assert own[10:40] not in repr(verifier)
    verifier.close()
    with pytest.raises(PetsemError, match="closed"):
        verifier.verify(token, READ)

    async def aio() -> None:
        async with TokenVerifier(endpoints, token=own) as found:
            assert (await found.verify(token, READ)).allowed
            assert own[10:40] not in repr(found)
        await found.close()
        with pytest.raises(PetsemError, match="closed"):
            await found.verify(token, READ)

    asyncio.run(aio())
