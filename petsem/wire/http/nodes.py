"""Bodies of probes, status, nodes and the keyring."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from petsem.wire.http.shared import In, Out, PositionText, Time


class Health(Out, frozen=True):
    """The process answers."""

    status: Literal["ok"]


class Ready(Out, frozen=True):
    """The node serves everything that it is there for."""

    ready: Literal[True]


class OpenApi(Out, frozen=True):
    """The OpenAPI document, which has much more in it."""

    openapi: str = "3.1.0"


class NodeStatus(Out, frozen=True):
    """A node; what is not known of it is null."""

    node: str
    region: str
    role: Literal["leader", "replica", "unknown"]
    epoch: int | None
    position: PositionText | None
    lag_transactions: int | None
    lag_ms: int | None
    last_error: str | None
    version: str | None
    ready: bool
    warnings: list[str]
    http: str
    grpc: str
    source: Annotated[
        str | None, Meta(description="the node that it follows; null for one that leads")
    ] = None
    heard_ms_ago: Annotated[
        int | None, Meta(description="when it said all this; 0 for the node that answers")
    ] = None


class Status(Out, frozen=True):
    """The cluster's id, and its nodes as this one sees them."""

    cluster: str
    nodes: list[NodeStatus]


class NodeInfo(Out, frozen=True):
    """A member of the cluster and its addresses."""

    node: str
    region: str
    voter: bool
    joined_at: Time
    http: str
    grpc: str
    peer: str


class NodeList(Out, frozen=True):
    """The cluster's members."""

    nodes: list[NodeInfo]


class NodeInvitation(In, frozen=True):
    """Where the new node will stand; the token is good for no other region."""

    region: Annotated[str, Meta(description="as in 1 to 63 lower-case letters, digits, hyphens")]


class NodeInvited(Out, frozen=True):
    """A join token, which is shown here only. It is a secret: whoever uses it first joins."""

    join_token: str
    expires_at: Time


class NodeRemoved(Out, frozen=True):
    """A node that is one no more, from this position on."""

    node: str
    position: PositionText
    message: str


class NodePromotion(In, frozen=True):
    """`force` makes the node lead although no majority was asked: what the leader had and this
    node does not is lost to the cluster."""

    force: bool = False


class MayBeLost(Out, frozen=True):
    """What is known of the leader that a promotion passes over. Unknown is null, never 0."""

    leader: str | None
    leader_position: PositionText | None
    transactions: int | None
    leader_seen_ms_ago: int | None


class NodePromoted(Out, frozen=True):
    """A node that leads now, from this position on."""

    node: str
    epoch: int
    position: PositionText
    may_be_lost: MayBeLost
    message: str


class NodeLossAccepted(Out, frozen=True):
    """A node that gives up its own branch now."""

    node: str
    message: str


class KekInfo(Out, frozen=True):
    """A KEK, by its id; the key itself is in no answer."""

    purpose: Literal["secrets", "tokens", "cluster"]
    id: str
    state: Literal["waiting", "primary", "retired"]
    held: Annotated[bool, Meta(description="whether this node's keyring has it")]
    wraps: Annotated[int, Meta(description="data keys that are wrapped with it")]
    lacking: Annotated[
        list[str], Meta(description="live nodes that use keys of this purpose and lack this one")
    ] = msgspec.field(default_factory=list)
    lost: Annotated[
        list[str], Meta(description="live nodes that keep a lost branch which may need it")
    ] = msgspec.field(default_factory=list)
    unknown: Annotated[
        list[str],
        Meta(
            description="of promote and retire: members that are not heard, so that it is not known"
            " what they hold or need"
        ),
    ] = msgspec.field(default_factory=list)


class KeyringList(Out, frozen=True):
    """The KEKs that the cluster knows of."""

    keys: list[KekInfo]


class KeyringStep(In, frozen=True):
    """Do up to `limit` rows and say how many are left; ask again until none are."""

    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100
    org: str | None = None
    app: str | None = None
    after: Annotated[str, Meta(description="the `next` of the answer before")] | None = None


class KeyringProgress(Out, frozen=True):
    """What was done, and what is left to do."""

    done: int
    remaining: int
    next: Annotated[str | None, Meta(description="what to ask `after` next; null when done")]
    message: str


class KekPromotion(In, frozen=True):
    """Whether to promote a key that a live node lacks."""

    force: bool = False


class KekRetirement(In, frozen=True):
    """Whether to retire a key that a lost branch may need."""

    force: bool = False
