"""Why a token is refused, through a real node: over HTTP, and as the command line says it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest

from petsem.clock import rfc3339
from petsem.crypto.keys import random_id
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import encode_token, parse_token
from tests.support import cluster
from tests.support.daemon import Daemon
from tests.support.doors import Doors, narrowed
from tests.support.offline import Disk, nonce_of
from tests.unit.tokens.build import added, bound, made, required

ACCESS: Final = {"org": "acme", "app": "web", "action": "secrets:read"}
KEY: Final = b"a key that is shared with a party"
TICKET: Final = b"ticket"


@dataclass(frozen=True)
class Refused:
    """A token, and how it is refused: reason, the caveat that decides, words of the sentence."""

    token: str
    reason: str
    caveat: str | None
    says: str


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    made_here = cluster.make(tmp_path_factory.mktemp("explanations"))
    with Daemon(made_here.directory) as daemon, Doors(daemon, made_here.operator) as doors:
        doors.furnish("acme", "web")
        doors.furnish("beta")
        yield doors


@pytest.fixture(scope="module")
def refused(doors: Doors) -> dict[str, Refused]:
    """One token for each way of being refused."""
    disk = Disk(doors.daemon.directory)
    good = doors.mint("acme", "action = secrets:read")
    root = parse_token(good).root
    altered = bytes([root.signature[0] ^ 1]) + root.signature[1:]
    identifier = Identifier.parse(root.identifier)
    foreign = dataclasses.replace(identifier, cluster_id=random_id())
    unknown = dataclasses.replace(identifier, root_key_id=random_id())
    revoked = doors.mint("acme", "action = secrets:read")
    doors.done("DELETE", f"/v1/orgs/acme/tokens/{nonce_of(revoked).hex()}")
    needs = required(root, KEY, TICKET)
    discharge = made(KEY, TICKET)
    past, later = rfc3339(1_700_000_000_000), rfc3339(4_000_000_000_000)
    return {
        "cut short": Refused(good[:-9], "TRUNCATED", None, "cut short"),
        "no token": Refused("hunter2", "MALFORMED", None, "the token is not"),
        "altered": Refused(
            encode_token(dataclasses.replace(root, signature=altered)),
            "BAD_SIGNATURE",
            None,
            "signature is wrong",
        ),
        "a caveat removed": Refused(
            encode_token(dataclasses.replace(root, caveats=root.caveats[:-1])),
            "BAD_SIGNATURE",
            None,
            "altered",
        ),
        "of an unknown key": Refused(
            encode_token(made(KEY, unknown.encode())), "UNKNOWN_KEY", None, "root key is not known"
        ),
        "of another cluster": Refused(
            encode_token(made(KEY, foreign.encode())), "WRONG_CLUSTER", None, "another cluster"
        ),
        "never issued": Refused(
            disk.forged("acme", "action = secrets:read"), "NOT_ISSUED", None, "never issued"
        ),
        "revoked": Refused(revoked, "REVOKED", None, "was revoked"),
        "expired": Refused(
            disk.expired("acme", int(time.time()), "action = secrets:read"),
            "EXPIRED",
            None,
            "has expired",
        ),
        "a copy that has expired": Refused(
            narrowed(good, f"time < {past}"), "EXPIRED", f"time < {past}", "has expired"
        ),
        "not valid yet": Refused(
            narrowed(good, f"time >= {later}"),
            "NOT_YET_VALID",
            f"time >= {later}",
            "not valid yet",
        ),
        "not discharged": Refused(
            encode_token(needs), "DISCHARGE_MISSING", None, "petsem login ORG"
        ),
        "a discharge that is not bound": Refused(
            encode_token(needs, [discharge]), "DISCHARGE_INVALID", None, "does not belong"
        ),
        "a discharge of another root": Refused(
            encode_token(needs, [bound(root, discharge)]),
            "DISCHARGE_INVALID",
            None,
            "does not belong",
        ),
        "a discharge under another key": Refused(
            encode_token(needs, [bound(needs, made(b"x" * 32, TICKET))]),
            "DISCHARGE_INVALID",
            None,
            "does not belong",
        ),
        "a discharge too many": Refused(
            encode_token(root, [bound(root, discharge)]),
            "DISCHARGE_INVALID",
            None,
            "not asked for",
        ),
        "a discharge that has a caveat": Refused(
            encode_token(needs, [bound(needs, made(KEY, TICKET, [b"user = a@example.com"]))]),
            "CAVEAT",
            "user = a@example.com",
            "'user = a@example.com'",
        ),
        "for another app": Refused(
            narrowed(good, "app = api"), "CAVEAT", "app = api", "'app = api'"
        ),
        "a caveat that is none": Refused(
            encode_token(added(root, b"moon is full")), "CAVEAT", "moon is full", "'moon is full'"
        ),
        "another org's": Refused(
            doors.mint("beta", "action = secrets:read"), "WRONG_ORG", None, "another org"
        ),
    }  # fmt: skip


def test_each_has_a_reason_of_its_own(refused: dict[str, Refused]) -> None:
    """All of the reasons that a node gives are here."""
    assert {each.reason for each in refused.values()} == {
        "MALFORMED", "TRUNCATED", "BAD_SIGNATURE", "UNKNOWN_KEY", "WRONG_CLUSTER", "WRONG_ORG",
        "NOT_ISSUED", "REVOKED", "EXPIRED", "NOT_YET_VALID", "CAVEAT", "DISCHARGE_MISSING",
        "DISCHARGE_INVALID",
    }  # fmt: skip


def test_over_http(doors: Doors, refused: dict[str, Refused]) -> None:
    """`verify` says the reason, the caveat and a sentence, and of a refused token nothing else;
    the dry run says the same."""
    for what, expected in refused.items():
        for verb, word in (("verify", "allowed"), ("can", "would_allow")):
            asked = {"token": expected.token, "access": ACCESS}
            told = doors.done("POST", f"/v1/tokens/{verb}", asked)
            assert told[word] is False, what
            assert (told["reason"], told.get("caveat")) == (expected.reason, expected.caveat), what
            assert expected.says in told["message"], what
            assert told.keys() <= {word, "reason", "caveat", "message", "freshness"}, what


def test_in_a_batch(doors: Doors, refused: dict[str, Refused]) -> None:
    """Each gets its own, in order."""
    requests = [{"token": each.token, "access": ACCESS} for each in refused.values()]
    told = doors.done("POST", "/v1/tokens/verify-batch", {"requests": requests})["responses"]
    assert [(each["reason"], each.get("caveat")) for each in told] == [
        (each.reason, each.caveat) for each in refused.values()
    ]


SHOWN: Final = (
    "cut short", "altered", "of an unknown key", "never issued", "revoked",
    "a copy that has expired", "not discharged", "a discharge of another root", "for another app",
    "another org's",
)  # fmt: skip


@pytest.mark.parametrize("what", SHOWN)
def test_on_the_command_line(doors: Doors, refused: dict[str, Refused], what: str) -> None:
    """`token verify` and `token can` say reason, sentence and caveat, and exit with 3; the token is
    not repeated."""
    expected = refused[what]
    verb = "can" if SHOWN.index(what) % 2 else "verify"
    ran = doors.cli(
        *("token", verb, "secrets:read", "-a", "acme/web", "--token-file", "-"),
        stdin=expected.token.encode(),
    )
    said = ran.out.decode()
    begins = "would be refused" if verb == "can" else "refused"
    assert said.startswith(f"{begins}, {expected.reason}: "), ran
    assert expected.says in said
    assert expected.caveat is None or expected.caveat in said
    assert (ran.code, ran.err) == (3, "")
    assert expected.token not in said


def test_what_is_allowed(doors: Doors) -> None:
    """With a discharge that belongs to it, a token says who it is and until when; and `inspect`
    shows the same token without asking anybody."""
    good = doors.mint("acme", "action = secrets:read", kind="deploy")
    root = required(parse_token(good).root, KEY, TICKET)
    later = rfc3339(int(time.time() + 300) * 1000)
    discharge = made(KEY, TICKET, [f"time < {later}".encode()])
    token = encode_token(root, [bound(root, discharge)])
    told: dict[str, Any] = doors.done(
        "POST", "/v1/tokens/verify", {"token": token, "access": ACCESS}
    )
    subject = f"deploy:{nonce_of(good).hex()}"
    assert (told["allowed"], told["subject"], told["expires_at"]) == (True, subject, later)
    args = ("token", "can", "secrets:read", "-a", "acme/web", "--token-file", "-")
    ran = doors.cli(*args, stdin=token.encode())
    assert (ran.code, ran.out.decode()) == (0, f"would be allowed: {subject}, until {later}\n")
    shown = doors.cli("token", "inspect", "-o", "json", "--token-file", "-", stdin=token.encode())
    described = json.loads(shown.out)
    assert described["verified"] is False
    assert (described["identifier"]["kind"], described["orgs"]) == ("deploy", ["acme"])
    assert described["caveats"][-1]["discharged"] is True
    assert described["discharges"][0]["caveats"] == [{"caveat": f"time < {later}"}]
