"""Deny by default, on a running node: the policy, walked over every route and RPC and every door.

The table below says again what each of them needs. It is not derived from the server's own, so
that a change of either shows; and whoever adds a route without a case here is told so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from petsem.clock import rfc3339
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose, generate_kek
from petsem.server import policy
from petsem.server.datadir import DataDir
from petsem.wire import petsem_pb2 as pb
from tests.support import cluster
from tests.support.daemon import Daemon, configure
from tests.support.doors import Doors, Reply, grpc_error, narrowed
from tests.support.offline import Disk, nonce_of

pytestmark = pytest.mark.xdist_group("policy")
"""In one process, so that what is made once for this file is."""

Where = tuple[str, str]

ORG_ACTIONS: Final = (
    "secrets:read", "secrets:list", "secrets:write", "secrets:delete", "tokens:mint",
    "tokens:revoke", "tokens:list", "tokens:verify", "tokens:exchange", "apps:admin",
)  # fmt: skip
CLUSTER_ACTIONS: Final = (*ORG_ACTIONS, "orgs:admin", "nodes:read", "nodes:admin")
OPEN: Final = frozenset({("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/schema")})
SIGNING_IN: Final = frozenset(
    {
        *(("POST", "/v1/login"), ("POST", "/v1/login/token")),
        *(("POST", "/.well-known/petsem/3p"), ("POST", "/.well-known/petsem/3p/poll")),
        *(("GET", "/sso"), ("POST", "/sso"), ("GET", "/sso/callback/{org}")),
    }
)
"""Open too, for what they are given is sealed. Nothing is not, and no token stands in for it."""

APP: Final = "/v1/orgs/{org}/apps/{app}"
EXCHANGE: Final = {
    "org": "acme", "app": "web", "machine": "m1", "host_key": "0" * 64, "actions": ["secrets:read"],
}  # fmt: skip
ABSENT_ID: Final = "0" * 32
VERIFY: Final = {"token": "nonsense", "access": {"org": "acme", "action": "secrets:read"}}


@dataclass(frozen=True)
class Case:
    """What a route needs, and a request for it that is in order.

    `parameters` are those of the path where the request that is allowed has others than the
    refused ones. `of_cluster`: only the cluster's key carries that authority.
    """

    action: str
    body: Any = None
    of_cluster: bool = False
    query: str = ""
    status: int = 200
    parameters: dict[str, str] = field(default_factory=dict)


HTTP: Final[dict[Where, Case]] = {
    ("POST", "/v1/orgs"): Case("orgs:admin", {"org": "new"}, of_cluster=True, status=201),
    ("GET", "/v1/orgs"): Case("orgs:admin", of_cluster=True),
    ("DELETE", "/v1/orgs/{org}"): Case("orgs:admin", of_cluster=True, parameters={"org": "doomed"}),
    ("POST", "/v1/orgs/{org}/undelete"): Case(
        "orgs:admin", of_cluster=True, parameters={"org": "undead"}
    ),
    ("GET", "/v1/orgs/{org}/settings"): Case("orgs:admin", of_cluster=True),
    ("PATCH", "/v1/orgs/{org}/settings"): Case(
        "orgs:admin", {"boot_max_staleness_s": 60}, of_cluster=True
    ),
    ("POST", "/v1/orgs/{org}/root-keys"): Case(
        "orgs:admin", of_cluster=True, parameters={"org": "umbrella"}
    ),
    ("POST", "/v1/orgs/{org}/apps"): Case("apps:admin", {"app": "new"}, status=201),
    ("GET", "/v1/orgs/{org}/apps"): Case("secrets:list"),
    ("DELETE", APP): Case("apps:admin", parameters={"app": "doomed"}),
    ("POST", APP + "/undelete"): Case("apps:admin", parameters={"app": "undead"}),
    ("GET", APP + "/secrets"): Case("secrets:list"),
    ("PATCH", APP + "/secrets"): Case("secrets:write", {"set": {"C": "c"}}),
    ("GET", APP + "/secrets/values"): Case("secrets:read"),
    ("POST", APP + "/secrets/diff"): Case("secrets:write", {"set": {"A": "c"}}),
    ("POST", APP + "/secrets/destroy"): Case("secrets:delete", {"names": ["DOOMED"]}),
    ("GET", APP + "/versions"): Case("secrets:list"),
    ("POST", APP + "/rollback"): Case("secrets:write", {"to": 2}),
    ("POST", "/v1/tokens"): Case("tokens:mint", "mint", status=201),
    # Not with an action beside it: the token that is let through has no more than the one needed.
    ("POST", "/v1/tokens/exchange"): Case("tokens:exchange", EXCHANGE, status=403),
    # Only a person or a service can ask.
    ("POST", "/v1/orgs/{org}/boots"): Case(
        "machines:boot", {"app": "web", "machine": "m1", "ticket": "AAAA"}, status=403
    ),
    ("GET", "/v1/tokens"): Case("tokens:list", of_cluster=True),
    ("DELETE", "/v1/tokens/{token_id}"): Case("tokens:revoke", of_cluster=True),
    ("GET", "/v1/orgs/{org}/tokens"): Case("tokens:list"),
    ("DELETE", "/v1/orgs/{org}/tokens/{token_id}"): Case("tokens:revoke"),
    ("POST", "/v1/orgs/{org}/revocations"): Case("tokens:revoke", {"app": "doomed"}),
    ("POST", "/v1/tokens/verify"): Case("tokens:verify", VERIFY),
    ("POST", "/v1/tokens/verify-batch"): Case("tokens:verify", {"requests": [VERIFY]}),
    ("POST", "/v1/tokens/can"): Case("tokens:verify", VERIFY),
    ("GET", "/v1/revocations"): Case("tokens:verify", query="org=acme"),
    ("GET", "/v1/nodes"): Case("nodes:read", of_cluster=True),
    ("POST", "/v1/nodes/invite"): Case(
        "nodes:admin", {"region": "fra"}, of_cluster=True, status=201
    ),
    ("DELETE", "/v1/nodes/{node}"): Case(
        "nodes:admin", of_cluster=True, parameters={"node": "doomed"}
    ),
    # Of another node than the one that is asked, which has nothing to do with it.
    ("POST", "/v1/nodes/{node}/promote"): Case(
        "nodes:admin", of_cluster=True, status=400, parameters={"node": "bystander"}
    ),
    ("POST", "/v1/nodes/{node}/accept-loss"): Case(
        "nodes:admin", of_cluster=True, status=400, parameters={"node": "bystander"}
    ),
    ("GET", "/v1/status"): Case("nodes:read", of_cluster=True),
    ("GET", "/metrics"): Case("nodes:read", of_cluster=True),
    ("GET", "/v1/keyring"): Case("nodes:admin", of_cluster=True),
    ("POST", "/v1/keyring/{key_id}/promote"): Case("nodes:admin", of_cluster=True),
    ("POST", "/v1/keyring/{key_id}/retire"): Case("nodes:admin", {"force": True}, of_cluster=True),
    ("POST", "/v1/keyring/rewrap"): Case("nodes:admin", {}, of_cluster=True),
    ("POST", "/v1/keyring/rotate-data"): Case(
        "nodes:admin", {"org": "acme", "app": "api"}, of_cluster=True
    ),
}

_VERIFY_RPC: Final = pb.VerifyRequest(token="nonsense", access=VERIFY["access"])  # type: ignore[arg-type]
RPC: Final[dict[str, tuple[str, Message]]] = {
    "/petsem.v1.Secrets/Fetch": ("secrets:read", pb.FetchRequest(org="acme", app="web")),
    "/petsem.v1.Secrets/Watch": ("secrets:read", pb.WatchRequest(org="acme", app="web")),
    "/petsem.v1.Tokens/Verify": ("tokens:verify", _VERIFY_RPC),
    "/petsem.v1.Tokens/VerifyBatch": (
        "tokens:verify",
        pb.VerifyBatchRequest(requests=[_VERIFY_RPC]),
    ),
    "/petsem.v1.Tokens/WatchRevocations": (
        "tokens:verify",
        pb.WatchRevocationsRequest(org="acme"),
    ),
}
STREAMS: Final = frozenset({"/petsem.v1.Secrets/Watch", "/petsem.v1.Tokens/WatchRevocations"})
ORG_LEVEL: Final = {where: case for where, case in HTTP.items() if not case.of_cluster}
CLUSTER_LEVEL: Final = {where: case for where, case in HTTP.items() if case.of_cluster}

NO_TOKEN: Final = ("unauthenticated", None)
STATUS: Final = {"unauthenticated": (401, "UNAUTHENTICATED"), "denied": (403, "PERMISSION_DENIED")}


@dataclass
class Walk:
    """A node with two orgs, and tokens that differ in one thing each from what is needed."""

    doors: Doors
    disk: Disk
    tokens: dict[tuple[bool, str], str] = field(default_factory=dict)

    def good(self, action: str, *, of_cluster: bool) -> str:
        """A token that holds this action, for acme's app web if it is acme's."""
        key = (of_cluster, action)
        if key not in self.tokens:
            org = None if of_cluster else "acme"
            self.tokens[key] = self.doors.mint(org, f"action = {action}")
        return self.tokens[key]

    def refused(self, action: str, *, of_cluster: bool) -> dict[str, str | None]:
        """By what is wrong with it: tokens that must not be taken for `action`."""
        good = self.good(action, of_cluster=of_cluster)
        org = None if of_cluster else "acme"
        every = CLUSTER_ACTIONS if of_cluster else ORG_ACTIONS
        now_s = int(time.time())
        revoked = self.doors.mint(org, f"action = {action}")
        of = "" if of_cluster else "orgs/acme/"
        self.doors.done("DELETE", f"/v1/{of}tokens/{nonce_of(revoked).hex()}")
        others = ", ".join(each for each in every if each != action)
        all_of_org = f"action in {', '.join(ORG_ACTIONS)}"
        return {
            "none": None,
            "another org's": self.doors.mint("umbrella", all_of_org),
            "narrowed to another org": narrowed(good, "org = umbrella"),
            "narrowed to another app": narrowed(good, "app = api"),
            "every other action": self.doors.mint(org, f"action in {others}"),
            "expired": self.disk.expired(org, now_s, f"action = {action}"),
            "narrowed to the past": narrowed(good, f"time < {rfc3339((now_s - 60) * 1000)}"),
            "revoked": revoked,
            "not issued": self.disk.forged(org, f"action = {action}"),
            "issued with more caveats": self.disk.forged(
                org, f"action = {action}", nonce=nonce_of(good)
            ),
        }

    def ask(self, where: Where, case: Case, token: str | None, **parameters: str) -> Any:
        """The request of a case, with these parameters of the path."""
        method, template = where
        given = {"org": "acme", "app": "web", "token_id": ABSENT_ID, "key_id": "0" * 64}
        given["node"] = "absent"
        path = template.format(**{**given, **parameters})
        if case.query:
            path += "?" + case.query
        body = case.body
        if body == "mint":
            later = rfc3339(int(time.time() + 600) * 1000)
            caveats = ["action = tokens:mint", f"time < {later}"]
            body = {"org": "acme", "caveats": caveats}
        return self.doors.ask(method, path, body, token=token)

    @property
    def position(self) -> str:
        """Where the database is."""
        (row,) = self.disk.rows("SELECT epoch, txid FROM position")
        return f"{row[0]}-{row[1]}"


EXPECTED: Final[dict[str, tuple[str, str | None]]] = {
    "none": ("unauthenticated", None),
    "another org's": ("denied", "WRONG_ORG"),
    "narrowed to another org": ("denied", "CAVEAT"),
    "narrowed to another app": ("denied", "CAVEAT"),
    "every other action": ("denied", "CAVEAT"),
    "expired": ("unauthenticated", "EXPIRED"),
    "narrowed to the past": ("unauthenticated", "EXPIRED"),
    "revoked": ("denied", "REVOKED"),
    "not issued": ("unauthenticated", "NOT_ISSUED"),
    "issued with more caveats": ("unauthenticated", "NOT_ISSUED"),
}


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    made = cluster.make(tmp_path_factory.mktemp("policy"))
    keyring_file = DataDir(made.directory).default_keyring
    waiting = Keyring.parse(keyring_file.read_bytes()).with_key(Purpose.SECRETS, generate_kek())
    keyring_file.write_bytes(waiting.encode())
    Disk(made.directory).run(
        "INSERT INTO nodes VALUES ('doomed', 'fra', 0, 'x:1', 'x:2', 'x:3', 0),"
        " ('bystander', 'fra', 0, 'y:1', 'y:2', 'y:3', 0)"
    )
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        doors.furnish("acme", "web", "api", "doomed", "undead")
        for org in ("umbrella", "doomed", "undead"):
            doors.furnish(org)
        doors.set("acme/web", DOOMED="d")
        doors.done("PATCH", "/v1/orgs/acme/apps/web/secrets", {"unset": ["DOOMED"]})
        doors.set("acme/web", A="b")
        doors.done("DELETE", "/v1/orgs/acme/apps/undead")
        doors.done("DELETE", "/v1/orgs/undead")
        yield Walk(doors, Disk(made.directory))


def test_every_route_has_a_case(walk: Walk) -> None:
    """Routes, policy and the node's own description name what this file has cases for."""
    assert HTTP.keys() | OPEN | SIGNING_IN == policy.HTTP.keys()
    described = walk.doors.done("GET", "/schema")["paths"]
    routes = {(m.upper(), p) for p, methods in described.items() for m in methods}
    assert {where for where in routes if not where[1].startswith("/petsem.v1.")} == (
        HTTP.keys() | OPEN | SIGNING_IN
    )
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in pb.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert RPC.keys() == policy.RPC.keys()
    assert policy.RPC.keys() | policy.PEER.keys() == methods


def test_the_policy(walk: Walk) -> None:
    """Each route and RPC refuses every token that lacks one thing, and takes the one that lacks
    none; what is refused changes nothing."""
    _refusals(walk)
    _leave(walk)


def _refusals(walk: Walk) -> None:
    needed = sorted({(case.action, case.of_cluster) for case in HTTP.values()})
    tokens = {each: walk.refused(each[0], of_cluster=each[1]) for each in needed}
    of_org = walk.doors.mint("acme", f"action in {', '.join(ORG_ACTIONS)}")
    before = walk.position
    wrong: dict[tuple[object, ...], tuple[object, object]] = {}

    def judge(got: object, expected: object, *what: object) -> None:
        if got != expected:
            wrong[what] = (got, expected)

    for where, case in HTTP.items():
        for what, token in tokens[case.action, case.of_cluster].items():
            code, reason = EXPECTED[what]
            got = walk.ask(where, case, token).error
            judge(got, (STATUS[code][0], code, reason), where, what)
    for where, case in CLUSTER_LEVEL.items():
        got = walk.ask(where, case, of_org).error
        judge(got, (403, "denied", "WRONG_ORG"), where, "an org's")
        forged = walk.disk.forged("acme", f"action = {case.action}")
        got = walk.ask(where, case, forged).error
        judge(got, (401, "unauthenticated", "NOT_ISSUED"), where, "an org's, forged")
    for path, (action, message) in RPC.items():
        for what, token in tokens[action, False].items():
            code, reason = EXPECTED[what]
            status, name = STATUS[code]
            reply = walk.doors.rpc(path, message, token=token)
            judge(reply.error, (name, code, reason), path, what)
            if path in STREAMS:
                continue
            for proto in (True, False):
                reply = _connect(walk, path, message, token, proto=proto)
                expected = (f"{status} {name.lower()}", code, reason)
                judge(reply.error, expected, "Connect", path, proto, what)
    assert wrong == {}
    assert walk.position == before


def _connect(walk: Walk, path: str, message: Message, token: str | None, *, proto: bool) -> Reply:
    body = message if proto else json_format.MessageToJson(message).encode()
    return walk.doors.connect(path, body, token=token, proto=proto)


def _leave(walk: Walk) -> None:
    """Each with a token that has what is needed and no more."""
    keys = walk.doors.done("GET", "/v1/keyring")["keys"]
    by_state = {key["state"]: key["id"] for key in keys if key["purpose"] == "secrets"}
    parameters = {
        ("DELETE", "/v1/tokens/{token_id}"): {"token_id": _victim(walk, None)},
        ("DELETE", "/v1/orgs/{org}/tokens/{token_id}"): {"token_id": _victim(walk, "acme")},
        ("POST", "/v1/keyring/{key_id}/promote"): {"key_id": by_state["primary"]},
        ("POST", "/v1/keyring/{key_id}/retire"): {"key_id": by_state["waiting"]},
    }
    for where, case in HTTP.items():
        token = walk.good(case.action, of_cluster=case.of_cluster)
        given = {**case.parameters, **parameters.get(where, {})}
        if "{app}" in where[1]:
            token = narrowed(token, f"app = {given.get('app', 'web')}")
        answer = walk.ask(where, case, token, **given)
        assert answer.status == case.status, (where, answer.raw)
    for path, (action, message) in RPC.items():
        token = walk.good(action, of_cluster=False)
        assert walk.doors.rpc(path, message, token=token).error is None, path
        for proto in (True, False):
            reply = _connect(walk, path, message, token, proto=proto)
            streams = ("501 unimplemented", None, None)
            assert reply.error == (streams if path in STREAMS else None), path


def _victim(walk: Walk, org: str | None) -> str:
    return nonce_of(walk.doors.mint(org, "action = secrets:list")).hex()


def test_what_takes_a_second_action(walk: Walk) -> None:
    """Deleting an app for good takes orgs:admin too, and diff tells readers alone what is same."""
    admin = walk.doors.mint("acme", "action = apps:admin")
    answer = walk.doors.ask("DELETE", "/v1/orgs/acme/apps/api?now=true", token=admin)
    assert answer.error == (403, "denied", "WRONG_ORG")
    narrow = walk.doors.mint(None, "action = apps:admin")
    answer = walk.doors.ask("DELETE", "/v1/orgs/acme/apps/api?now=true", token=narrow)
    assert answer.error == (403, "denied", "CAVEAT")
    body = {"set": {"A": "b", "NEW": "x"}}
    path = "/v1/orgs/acme/apps/web/secrets/diff"
    writer = walk.doors.mint("acme", "action = secrets:write")
    assert "present" in walk.doors.done("POST", path, body, token=writer)
    reader = walk.doors.mint("acme", "action in secrets:write, secrets:read")
    assert "present" not in walk.doors.done("POST", path, body, token=reader)


def test_nobody_passes_on_what_he_does_not_hold(walk: Walk) -> None:
    """A mint is refused for each action that the asker's own token does not clear."""
    asker = walk.doors.mint("acme", "action in tokens:mint, secrets:list")
    later = rfc3339(int(time.time() + 600) * 1000)
    for action in CLUSTER_ACTIONS:
        body = {"org": "acme", "caveats": [f"action = {action}", f"time < {later}"]}
        answer = walk.doors.ask("POST", "/v1/tokens", body, token=asker)
        if action in ("tokens:mint", "secrets:list"):
            assert answer.status == 201, action
        else:
            assert answer.error == (403, "denied", "CAVEAT"), action
    body = {"caveats": ["action = secrets:list", f"time < {later}"]}
    answer = walk.doors.ask("POST", "/v1/tokens", body, token=asker)
    assert answer.error == (403, "denied", "WRONG_ORG")


def test_the_open_ones(walk: Walk) -> None:
    """Probes, description, health and reflection answer whoever asks, whatever he shows."""
    for token in (None, "nonsense", walk.disk.forged(None, "action = x:y")):
        got = {where: walk.doors.ask(*where, token=token).status for where in OPEN}
        assert got == dict.fromkeys(OPEN, 200)
        got = {where: walk.doors.ask(*where, token=token).status for where in SIGNING_IN}
        # Who sends a form is asked first where it was.
        assert got == dict.fromkeys(SIGNING_IN, 400) | {("POST", "/sso"): 403}
    assert _health(walk.doors) == health_pb2.HealthCheckResponse.SERVING
    assert _reflected(walk.doors, None) >= {"petsem.v1.Secrets", "petsem.v1.Tokens"}


@pytest.mark.parametrize("token", [None, "operator"])
def test_what_is_not_there(walk: Walk, token: str | None) -> None:
    """An unknown path, method or RPC is refused in the form of every other error."""
    shown = walk.doors.operator if token else None
    for method, path in (
        ("GET", "/v1/nothing"),
        ("GET", "/v1/orgs/acme/apps/web/secrets/values/A"),
        ("POST", "/metrics/extra"),
        ("GET", "/V1/orgs"),
    ):
        answer = walk.doors.ask(method, path, token=shown)
        assert answer.error == (404, "not_found", None), path
    for path in ("/v1/orgs/", "/v1//orgs", "//v1/orgs", "/v1/./orgs", "/v1/orgs%2f", "/metrics/"):
        # Another spelling may or may not be the route, and opens nothing.
        answer = walk.doors.ask("GET", path, token=None)
        assert answer.error in ((401, "unauthenticated", None), (404, "not_found", None)), path
    for method in ("PUT", "OPTIONS", "TRACE", "HEAD"):
        answer = walk.doors.ask(method, "/v1/orgs/acme/apps/web/secrets", token=shown)
        assert answer.status == 405, method
    for path in (
        "/petsem.v1.Secrets/Nothing",
        "/petsem.v1.Peer/Join",
        "/petsem.v1.Replication/Stream",
        "/petsem.v2.Secrets/Fetch",
    ):
        metadata = () if shown is None else (("authorization", f"Bearer {shown}"),)
        with pytest.raises(grpc.RpcError) as caught:
            walk.doors.channel.unary_unary(path, None, None)(b"", metadata=metadata, timeout=10)
        assert grpc_error(caught.value).status == "UNIMPLEMENTED", path
        answer = walk.doors.ask("POST", path, b"{}", token=shown)
        assert answer.status == 404, path


def test_closed_schema_and_open_metrics(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The two settings that open and close: metrics for everybody, the description for whoever
    has any valid token."""
    made = cluster.make(tmp_path_factory.mktemp("settings"))
    configure(made.directory, "http", open_metrics=True, open_schema=False)
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        assert doors.ask("GET", "/metrics", token=None).status == 200
        assert doors.ask("GET", "/schema", token=None).error == (401, "unauthenticated", None)
        assert doors.ask("GET", "/schema", token="nonsense").error == (
            401,
            "unauthenticated",
            "MALFORMED",
        )
        any_token = doors.mint(None, "action = x:y")
        assert doors.ask("GET", "/schema", token=any_token).status == 200
        with pytest.raises(grpc.RpcError) as caught:
            _reflected(doors, None)
        assert grpc_error(caught.value).error == ("UNAUTHENTICATED", "unauthenticated", None)
        assert _reflected(doors, any_token) >= {"petsem.v1.Secrets"}
        assert _health(doors) == health_pb2.HealthCheckResponse.SERVING


def _health(doors: Doors) -> int:
    raw = doors.channel.unary_unary("/grpc.health.v1.Health/Check", None, None)(b"", timeout=10)
    return int(health_pb2.HealthCheckResponse.FromString(raw).status)


def _reflected(doors: Doors, token: str | None) -> set[str]:
    """The services that reflection lists."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    replies = doors.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", None, None
    )(iter([ask.SerializeToString()]), metadata=metadata, timeout=10)
    (raw,) = list(replies)
    listed = reflection_pb2.ServerReflectionResponse.FromString(raw)
    return {service.name for service in listed.list_services_response.service}
