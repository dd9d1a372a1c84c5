"""Routes of tokens and root keys."""

from __future__ import annotations

from typing import Final

from petsem.errors import Code
from petsem.model import check_org
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.queries import Page
from petsem.server.api.route import Route
from petsem.server.api.tenants import ORG
from petsem.server.principal import Names, Principal
from petsem.wire import http


async def _mint(ask: Ask) -> http.Minted:
    token = ask.verify()
    body = await ask.body(http.Mint)
    org = None if body.org is None else check_org(body.org)
    principal = ask.clear(token, Names(org))
    return await ask.node.tokens.mint(principal, ask.call(), body)


async def _list_of_cluster(ask: Ask) -> http.TokenList:
    return _list(ask, None)


async def _list_of_org(ask: Ask) -> http.TokenList:
    return _list(ask, ask.org)


def _list(ask: Ask, org: str | None) -> http.TokenList:
    ask.authorize(Names(org))
    page = ask.query(Page)
    return ask.node.tokens.list(org, page.after, page.limit)


async def _revoke_of_cluster(ask: Ask) -> http.Revoked:
    return await _revoke(ask, ask.authorize(), None)


async def _revoke_of_org(ask: Ask) -> http.Revoked:
    org = ask.org
    principal = ask.clear_to_end(ask.verify(), org, ask.parameter("token_id"))
    return await _revoke(ask, principal, org)


async def _revoke(ask: Ask, principal: Principal, org: str | None) -> http.Revoked:
    await ask.no_body()
    return await ask.node.tokens.revoke(principal, ask.call(), org, ask.parameter("token_id"))


async def _rotate(ask: Ask) -> http.RootKeyRotated:
    org = ask.org
    principal = ask.authorize(Names(org))
    await ask.no_body()
    return await ask.node.tokens.rotate_root_key(principal, ask.call(), org)


_ABOUT_LIST: Final = "Oldest first, a page at a time; never a token itself. "
_ABOUT_REVOKE: Final = (
    "Ends the token, and all that was attenuated from it or minted on its authority. Ending what "
    "has ended already is no error. "
)

ROUTES: Final = (
    Route(
        method="POST",
        path="/v1/tokens",
        handle=_mint,
        tag="tokens",
        summary="Mint a token",
        about="On the authority of the token that asks: each action must be one that it clears, "
        "and its caveats, but for `time` and `user`, are inherited. With `org` that org's key "
        "signs, and the caveat `org = …` is added; without it the cluster's key does, and the "
        "asker must be of it. `action` and `time <` caveats are required.",
        names="org",
        body=http.Mint,
        body_examples=(
            ("a host's", examples.MINT),
            ("an operator's", examples.MINT_OPERATOR),
        ),
        status=201,
        reply=http.Minted,
        examples=(("minted", examples.MINTED),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="GET",
        path="/v1/tokens",
        handle=_list_of_cluster,
        tag="tokens",
        summary="List the cluster key's tokens",
        about=_ABOUT_LIST + "Only tokens of the cluster key may ask.",
        query=Page,
        reply=http.TokenList,
        examples=(("one page", http.TokenList(tokens=[examples.OPERATOR_TOKEN], next=None)),),
    ),
    Route(
        method="DELETE",
        path="/v1/tokens/{token_id}",
        handle=_revoke_of_cluster,
        tag="tokens",
        summary="Revoke a token of the cluster key",
        about=_ABOUT_REVOKE + "Only tokens of the cluster key may ask.",
        reply=http.Revoked,
        examples=(("revoked", examples.REVOKED),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="GET",
        path=ORG + "/tokens",
        handle=_list_of_org,
        tag="tokens",
        summary="List an org's tokens",
        about=_ABOUT_LIST,
        names="org",
        query=Page,
        reply=http.TokenList,
        examples=(("one page", http.TokenList(tokens=[examples.TOKEN], next=None)),),
        fails=(Code.NOT_FOUND,),
    ),
    Route(
        method="DELETE",
        path=ORG + "/tokens/{token_id}",
        handle=_revoke_of_org,
        tag="tokens",
        summary="Revoke an org's token",
        about=_ABOUT_REVOKE + "A token may end itself without `tokens:revoke`, if it is sent as it "
        "was minted, with its discharge as that was given and bound to it: a narrower copy cannot.",
        names="org",
        reply=http.Revoked,
        examples=(("revoked", examples.REVOKED),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
    Route(
        method="POST",
        path=ORG + "/root-keys",
        handle=_rotate,
        tag="tokens",
        summary="Rotate an org's root key",
        about="New tokens of the org are signed with a new key. Live tokens keep working until "
        "their time is over or they are revoked.",
        names="org",
        reply=http.RootKeyRotated,
        examples=(("rotated", examples.ROOT_KEY),),
        fails=(Code.NOT_FOUND,),
        writes=True,
    ),
)
