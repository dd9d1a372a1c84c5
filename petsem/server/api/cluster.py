"""Routes of nodes and of the keyring, for operators."""

from __future__ import annotations

from typing import Final

from petsem.errors import Code
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.route import Route
from petsem.wire import http

_KEY: Final = "/v1/keyring/{key_id}"


async def _status(ask: Ask) -> http.Status:
    ask.authorize()
    return ask.node.status.status()


async def _nodes(ask: Ask) -> http.NodeList:
    ask.authorize()
    return ask.node.status.nodes()


async def _invite(ask: Ask) -> http.NodeInvited:
    principal = ask.authorize()
    body = await ask.body(http.NodeInvitation)
    return await ask.node.nodes.invite(principal, ask.call(), body.region)


async def _remove(ask: Ask) -> http.NodeRemoved:
    principal = ask.authorize()
    await ask.no_body()
    return await ask.node.nodes.remove(principal, ask.call(), ask.parameter("node"))


async def _promote_node(ask: Ask) -> http.NodePromoted:
    ask.authorize()
    body = await ask.body(http.NodePromotion, otherwise=http.NodePromotion())
    return await ask.node.roles.promote(ask.parameter("node"), force=body.force)


async def _accept_loss(ask: Ask) -> http.NodeLossAccepted:
    ask.authorize()
    await ask.no_body()
    return ask.node.roles.accept_loss(ask.parameter("node"))


async def _keyring(ask: Ask) -> http.KeyringList:
    ask.authorize()
    return await ask.node.keyring.list()


async def _promote(ask: Ask) -> http.KekInfo:
    principal = ask.authorize()
    body = await ask.body(http.KekPromotion, otherwise=http.KekPromotion())
    key_id = ask.parameter("key_id")
    return await ask.node.keyring.promote(principal, ask.call(), key_id, body.force)


async def _retire(ask: Ask) -> http.KekInfo:
    principal = ask.authorize()
    body = await ask.body(http.KekRetirement, otherwise=http.KekRetirement())
    key_id = ask.parameter("key_id")
    return await ask.node.keyring.retire(principal, ask.call(), key_id, body.force)


async def _rewrap(ask: Ask) -> http.KeyringProgress:
    principal = ask.authorize()
    step = await ask.body(http.KeyringStep, otherwise=http.KeyringStep())
    return await ask.node.keyring.rewrap(principal, ask.call(), step)


async def _rotate_data(ask: Ask) -> http.KeyringProgress:
    principal = ask.authorize()
    step = await ask.body(http.KeyringStep, otherwise=http.KeyringStep())
    return await ask.node.keyring.rotate_data(principal, ask.call(), step)


_IN_STEPS: Final = (
    " Each call does up to `limit` rows; ask again with `after` until `next` is null. It can be "
    "broken off and begun anew at any time."
)

ROUTES: Final = (
    Route(
        method="GET",
        path="/v1/nodes",
        handle=_nodes,
        tag="nodes",
        summary="List the nodes",
        about="The cluster's members and their addresses.",
        reply=http.NodeList,
        examples=(("one node", examples.NODES),),
    ),
    Route(
        method="POST",
        path="/v1/nodes/invite",
        handle=_invite,
        tag="nodes",
        summary="Invite a node",
        about="Answers a join token, good once and for 15 minutes, with which a machine in that "
        "region becomes a node of the cluster.",
        body=http.NodeInvitation,
        body_examples=(("a region", examples.INVITATION),),
        status=201,
        reply=http.NodeInvited,
        examples=(("invited", examples.INVITED),),
        writes=True,
    ),
    Route(
        method="DELETE",
        path="/v1/nodes/{node}",
        handle=_remove,
        tag="nodes",
        summary="Remove a node",
        about="Its certificate is refused by the other nodes from then on, and its streams end. "
        "The node that leads cannot be removed.",
        reply=http.NodeRemoved,
        examples=(("removed", examples.NODE_REMOVED),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="POST",
        path="/v1/nodes/{node}/promote",
        handle=_promote_node,
        tag="nodes",
        summary="Make a replica the leader",
        own=True,
        about="Asked of the node itself, which raises the epoch and leads. With the `static` "
        "leaser it takes `force`: what only the old leader had is lost to the cluster, and is "
        "saved under `lost/` on it when it comes back as a replica. The answer says what that "
        "may be.",
        body=http.NodePromotion,
        body_optional=True,
        body_examples=(("the leader is gone", http.NodePromotion(force=True)),),
        reply=http.NodePromoted,
        examples=(("promoted", examples.NODE_PROMOTED),),
        fails=(Code.NOT_FOUND, Code.CONFLICT),
    ),
    Route(
        method="POST",
        path="/v1/nodes/{node}/accept-loss",
        handle=_accept_loss,
        tag="nodes",
        summary="Let a node give up its own branch",
        own=True,
        about="Asked of the node itself, which has transactions that the leader has not, too many "
        "to give up without asking. They are saved under `lost/` on it, with a list of the names "
        "in them, and it follows the leader. `conflict` if it waits for no such word.",
        reply=http.NodeLossAccepted,
        examples=(("accepted", examples.NODE_LOSS_ACCEPTED),),
        fails=(Code.CONFLICT,),
    ),
    Route(
        method="GET",
        path="/v1/status",
        handle=_status,
        tag="nodes",
        summary="See how the nodes are",
        about="Each node's role, position, lag, last error and warnings, as this node knows them.",
        reply=http.Status,
        examples=(("one node", examples.STATUS),),
        removed=True,
    ),
    Route(
        method="GET",
        path="/v1/keyring",
        handle=_keyring,
        tag="keyring",
        summary="List the KEKs",
        own=True,
        about="Every KEK that the cluster knows or this node holds, by id; never a key. The node's "
        "keyring is read again first.",
        reply=http.KeyringList,
        examples=(("one key", http.KeyringList(keys=[examples.KEK])),),
    ),
    Route(
        method="POST",
        path=_KEY + "/promote",
        handle=_promote,
        tag="keyring",
        summary="Make a KEK the primary one",
        about="New data keys of its purpose are wrapped with it from now on; rewrap brings the "
        "others over.",
        body=http.KekPromotion,
        body_optional=True,
        body_examples=(("as it should be", http.KekPromotion()),),
        reply=http.KekInfo,
        examples=(("promoted", examples.KEK),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="POST",
        path=_KEY + "/retire",
        handle=_retire,
        tag="keyring",
        summary="Retire a KEK",
        about="Marks a KEK that wraps nothing any more as one that may be taken out of keyrings. "
        "Refused while a live node is behind; while one keeps a lost branch that may need it, or a "
        "member is not heard, but with `force`.",
        body=http.KekRetirement,
        body_optional=True,
        body_examples=(("as it should be", http.KekRetirement()),),
        reply=http.KekInfo,
        examples=(("retired", examples.RETIRED_KEK),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="POST",
        path="/v1/keyring/rewrap",
        handle=_rewrap,
        tag="keyring",
        summary="Wrap data keys with the primary KEKs",
        about="The data keys stay the same." + _IN_STEPS,
        body=http.KeyringStep,
        body_optional=True,
        body_examples=(("begin", examples.STEP), ("go on", examples.NEXT_STEP)),
        reply=http.KeyringProgress,
        examples=(("more to do", examples.PROGRESS), ("done", examples.DONE)),
        writes=True,
    ),
    Route(
        method="POST",
        path="/v1/keyring/rotate-data",
        handle=_rotate_data,
        tag="keyring",
        summary="Make new data keys, and seal everything again with them",
        about="Of one app, or without `org` and `app` of everything. This, and not rewrap, is what "
        "helps after a KEK has leaked." + _IN_STEPS,
        body=http.KeyringStep,
        body_optional=True,
        body_examples=(("one app", examples.ROTATE_ONE), ("everything", examples.STEP)),
        reply=http.KeyringProgress,
        examples=(("more to do", examples.PROGRESS), ("done", examples.DONE)),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
)
