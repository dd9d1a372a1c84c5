"""What a token of one org is worth in another: nothing, at every door, and it learns nothing there.

The requests are those of the walk over the policy, so that whoever adds a route adds it here, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from petsem.tokens.macaroon import bind_discharge
from petsem.tokens.text import encode_token, parse_token
from petsem.tokens.thirdparty import require_discharge
from petsem.tokens.ticket import discharge
from petsem.wire import petsem_pb2 as pb
from tests.integration.test_policy import ORG_ACTIONS, ORG_LEVEL, RPC, STREAMS, Case, Where
from tests.support import cluster
from tests.support.daemon import Daemon
from tests.support.doors import Answer, Doors, in_seconds, narrowed
from tests.support.offline import nonce_of

pytestmark = pytest.mark.xdist_group("cross-org")

PLACES: Final = (("acme", "web"), ("acme", "ghost"), ("ghost", "web"), ("undead", "web"))
"""An app that is there, one that is not, an org that is not, and one that was deleted."""

BATCH: Final = "/petsem.v1.Tokens/VerifyBatch"


@dataclass
class Site:
    """A node with two orgs, and tokens of umbrella's that do all that an org's may."""

    doors: Doors
    tokens: dict[str, str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = cluster.make(tmp_path_factory.mktemp("cross-org"))
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        for org in ("acme", "umbrella", "undead"):
            doors.furnish(org, "web")
            doors.set(f"{org}/web", A=f"value of {org}")
        doors.done("DELETE", "/v1/orgs/undead")
        org_token = doors.mint("umbrella", f"action in {', '.join(ORG_ACTIONS)}")
        root = require_discharge(parse_token(org_token).root, b"x", b"k" * 32, b"t")
        acme = bind_discharge(root, discharge(b"t", b"k" * 32, ["org = acme"]))
        tokens = {
            "its org's": org_token,
            "narrowed to acme": narrowed(org_token, "org = acme"),
            "discharged for acme": encode_token(root, [acme]),
            "of a host": doors.mint("umbrella", "action = secrets:read", kind="host"),
        }
        yield Site(doors, tokens)


def _in(place: tuple[str, str], text: str) -> str:
    """A request of the walk, which is for acme's app web, in another place."""
    org, app = place
    return text.replace("acme", org).replace('"web"', f'"{app}"')


def _ask(doors: Doors, where: Where, case: Case, place: tuple[str, str], token: str) -> Answer:
    method, template = where
    org, app = place
    path = template.format(org=org, app=app, token_id="0" * 32, key_id="0" * 64, node="absent")
    if case.query:
        path += "?" + _in(place, case.query)
    body = case.body
    if body == "mint":
        body = {"org": "acme", "caveats": ["action = tokens:mint", in_seconds(600)]}
    content = None if body is None else _in(place, json.dumps(body)).encode()
    return doors.ask(method, path, content, token=token)


def test_no_route_looks_before_it_refuses(site: Site) -> None:
    """WRONG_ORG, in the same bytes whether org and app exist, are deleted, or never were."""
    wrong: dict[tuple[object, ...], object] = {}
    for where, case in ORG_LEVEL.items():
        for what, token in site.tokens.items():
            answers = [_ask(site.doors, where, case, place, token) for place in PLACES]
            if any(answer.error != (403, "denied", "WRONG_ORG") for answer in answers):
                wrong[where, what] = [answer.error for answer in answers]
            if len({answer.raw for answer in answers}) != 1:
                wrong[where, what] = [answer.raw for answer in answers]
    assert wrong == {}


def test_no_rpc_looks_before_it_refuses(site: Site) -> None:
    """The same over gRPC and Connect."""
    wrong: dict[tuple[object, ...], object] = {}
    for path, (_, message) in RPC.items():
        for what, token in site.tokens.items():
            asked = [_placed(message, place) for place in PLACES]
            replies = [site.doors.rpc(path, each, token=token) for each in asked]
            if path not in STREAMS:
                replies += [site.doors.connect(path, each, token=token) for each in asked]
            if any((each.code, each.reason) != ("denied", "WRONG_ORG") for each in replies):
                wrong[path, what] = [each.error for each in replies]
            if len({each.sentence for each in replies}) != 1:
                wrong[path, what] = [each.sentence for each in replies]
    assert wrong == {}


def _placed(message: Message, place: tuple[str, str]) -> Message:
    placed = _in(place, json_format.MessageToJson(message))
    return json_format.Parse(placed, type(message)())


def test_a_verdict_about_anothers_token_says_only_that(site: Site) -> None:
    """umbrella's verifier may ask about any text, in its own org: a token of acme is WRONG_ORG
    there, with nothing of what it is, and in a batch it takes nothing from the others."""
    doors, asker = site.doors, site.tokens["its org's"]
    theirs = doors.mint("acme", "action = secrets:read")
    access = {"org": "umbrella", "action": "secrets:read"}
    told = doors.done("POST", "/v1/tokens/verify", {"token": theirs, "access": access}, token=asker)
    assert {name for name in told if name != "freshness"} == {"allowed", "reason", "message"}
    assert (told["allowed"], told["reason"]) == (False, "WRONG_ORG")
    ours = pb.VerifyRequest(token=asker, access=access)
    both = pb.VerifyBatchRequest(requests=[pb.VerifyRequest(token=theirs, access=access), ours])
    first, second = doors.rpc(BATCH, both, token=asker).message.responses
    assert (first.allowed, first.reason, first.org, first.subject) == (False, "WRONG_ORG", "", "")
    assert second.allowed
    mixed = [ours, pb.VerifyRequest(token=theirs, access={**access, "org": "acme"})]
    for each in (mixed, mixed[::-1]):
        reply = doors.rpc(BATCH, pb.VerifyBatchRequest(requests=each), token=asker)
        assert (reply.code, reply.reason) == ("denied", "WRONG_ORG")


def test_ids_of_another_org_are_nobodys(site: Site) -> None:
    """Revoking, listing and following revocations through one's own org reach no token of another,
    and an id of theirs is answered as one that never was."""
    doors, mine = site.doors, site.tokens["its org's"]
    theirs = nonce_of(doors.mint("acme", "action = secrets:read")).hex()
    found, absent = (
        doors.ask("DELETE", f"/v1/orgs/umbrella/tokens/{each}", token=mine)
        for each in (theirs, "0" * 32)
    )
    assert found.error == absent.error == (404, "not_found", None)
    assert found.raw.replace(theirs.encode(), b"0" * 32) == absent.raw
    listed: list[dict[str, Any]] = doors.done("GET", "/v1/orgs/umbrella/tokens", token=mine)[
        "tokens"
    ]
    assert theirs not in {each["id"] for each in listed}
    begin = doors.done("GET", "/v1/revocations?org=umbrella", token=mine)["next"]
    doors.done("DELETE", f"/v1/orgs/acme/tokens/{theirs}")
    feed = f"/v1/revocations?org=umbrella&after={begin}&wait_s=0"
    assert doors.done("GET", feed, token=mine)["revocations"] == []
    told = doors.done("GET", feed.replace("umbrella", "acme"))["revocations"]
    assert [each["token_id"] for each in told] == [theirs]


def test_an_org_of_the_same_name_is_another(site: Site) -> None:
    """Deleted for good and made again, an org takes no token of before, and the old ones cannot
    be verified in it."""
    doors = site.doors
    doors.furnish("phoenix", "web")
    old = doors.mint("phoenix", f"action in {', '.join(ORG_ACTIONS)}")
    values = "/v1/orgs/phoenix/apps/web/secrets/values"
    assert doors.ask("GET", values, token=old).status == 200
    doors.done("DELETE", "/v1/orgs/phoenix?now=true")
    doors.furnish("phoenix", "web")
    assert doors.ask("GET", values, token=old).error == (401, "unauthenticated", "UNKNOWN_KEY")
    access = {"org": "phoenix", "action": "secrets:read"}
    told = doors.done("POST", "/v1/tokens/verify", {"token": old, "access": access})
    assert told["reason"] == "UNKNOWN_KEY"
    assert (
        doors.ask("GET", values, token=doors.mint("phoenix", "action = secrets:read")).status == 200
    )
