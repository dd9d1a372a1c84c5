"""Routes of the authenticator: for the command line, JSON; for browsers, pages.

They are open: what they are given was sealed by this cluster, and what they give goes to whoever
signed in. The leader answers them all, because it holds what is under way. Nothing here decides
who may sign in; `petsem.sso` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final, TypeVar
from urllib.parse import parse_qsl

from petsem.errors import Code, PetsemError, invalid
from petsem.server.api import examples
from petsem.server.api.ask import Ask
from petsem.server.api.errors import RETRY_AFTER_S, status_of
from petsem.server.api.form_origin import check_form_origin
from petsem.server.api.queries import CallbackQuery, FlowQuery
from petsem.server.api.reply import Header, Reply
from petsem.server.api.route import Route
from petsem.sso.answers import Asked, Callback, Discharged, Going, Interactive, Polling
from petsem.sso.pages import REFUSE, Page, refusal_page
from petsem.wire import http

Given = TypeVar("Given", http.ThirdPartyAnswer, http.ThirdPartyPolled)

_BODY_MAX_BYTES: Final = 32 * 1024
_FORM_MAX_BYTES: Final = 8 * 1024
_FIELDS_MAX: Final = 16
_CODE_MAX_CHARS: Final = 4 * 1024
_PERSONS_NO: Final = "access_denied"
"""RFC 6749, section 4.1.2.1: the person, or the provider, has refused."""
_HTML: Final = b"text/html; charset=utf-8"
_FORM: Final = "application/x-www-form-urlencoded"
_KEPT: Final = frozenset({"location", "set-cookie", "content-security-policy", "referrer-policy"})


async def _discharge(ask: Ask) -> http.ThirdPartyAnswer:
    body = await ask.body(http.ThirdParty, most_bytes=_BODY_MAX_BYTES)
    answer = await ask.node.authenticator.discharge(
        Asked(
            ticket=body.ticket,
            commitment=body.commitment,
            redirect_port=body.redirect_port,
            session=body.session,
            ip=ask.request.ip,
        )
    )
    if isinstance(answer, Discharged):
        return _given(http.ThirdPartyAnswer, answer)
    if isinstance(answer, Polling):
        return http.ThirdPartyAnswer(poll_url=answer.poll_url, flow=answer.flow)
    return http.ThirdPartyAnswer(user_interactive=_interactive(answer))


def _interactive(answer: Interactive) -> http.UserInteractive:
    return http.UserInteractive(
        user_url=answer.user_url, poll_url=answer.poll_url, flow=answer.flow, code=answer.code
    )


async def _poll(ask: Ask) -> http.ThirdPartyPolled:
    body = await ask.body(http.ThirdPartyPoll, most_bytes=_BODY_MAX_BYTES)
    answer = await ask.node.authenticator.poll(body.flow, body.secret, body.release)
    if isinstance(answer, Discharged):
        return _given(http.ThirdPartyPolled, answer)
    return http.ThirdPartyPolled(state="ready" if answer.ready else "pending")


def _given(kind: type[Given], answer: Discharged) -> Given:
    return kind(
        discharge=answer.discharge,
        session=answer.session,
        user=answer.user,
        expires_at=answer.expires_at,
    )


async def _begin(ask: Ask) -> Reply:
    query = ask.query(FlowQuery)
    if query.flow is None:
        raise invalid("this address is not whole; open the one that the terminal shows")
    going = await ask.node.authenticator.begin(query.flow, ask.request.ip)
    return _go(going, 302)


async def _confirm(ask: Ask) -> Reply:
    authenticator = ask.node.authenticator
    # Of a form on another site a browser sends no cookie of ours; and it says where the form was.
    site, origin, host = map(ask.header, (b"sec-fetch-site", b"origin", b"host"))
    check_form_origin(site, origin, host, authenticator.public_url)
    if (ask.header(b"content-type") or "").lower() != _FORM:
        raise invalid("this takes the form of the page, and nothing else")
    form = _fields(await ask.raw(_FORM_MAX_BYTES))
    says_no = form.pop(REFUSE, None) is not None
    if form.keys() != {"flow", "code"}:
        raise invalid("this takes flow and code, each once; fill in the form again")
    flow, code, cookie, ip = form["flow"], form["code"], ask.header(b"cookie"), ask.request.ip
    if says_no:
        return _go(await authenticator.refuse(flow, cookie, ip), 303)
    return _go(await authenticator.confirm(flow, code, cookie, ip), 303)


async def _callback(ask: Ask) -> Reply:
    # Providers add parameters of their own to these.
    given = _fields(ask.raw_query, only=("state", "code", "error", "iss"))
    state, code = given.get("state"), given.get("code")
    if state is None or (code is None) == ("error" not in given):
        raise invalid("the provider sent no answer that can be read; begin the sign-in again")
    if code is not None and not 0 < len(code) <= _CODE_MAX_CHARS:
        raise invalid("the provider sent no code that can be used; begin the sign-in again")
    denied = given.get("error") == _PERSONS_NO
    answer = Callback(ask.org, state, code, given.get("iss"), denied)
    going = await ask.node.authenticator.callback(answer, ask.header(b"cookie"), ask.request.ip)
    return _go(going, 302)


def _fields(raw: bytes, only: Sequence[str] | None = None) -> dict[str, str]:
    """The fields of a form or query that matter; `invalid` if one of them is there twice."""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError:
        pairs = []
    wanted = [pair for pair in pairs if only is None or pair[0] in only]
    found = dict(wanted)
    if not found or len(found) != len(wanted):
        raise invalid("what the browser sent cannot be read; begin the sign-in again")
    return found


def _go(going: Going, status: int) -> Reply:
    headers: list[Header] = []
    if going.cookie is not None:
        headers.append((b"set-cookie", going.cookie.encode("ascii")))
    if isinstance(going.to, Page):
        return _page(200, going.to, headers)
    headers.append((b"location", going.to.encode("ascii")))
    return _page(status, Page(""), headers)


def _page(status: int, page: Page, headers: Sequence[Header] = ()) -> Reply:
    guards = [
        (b"content-security-policy", page.policy.encode("ascii")),
        (b"referrer-policy", page.referrer.encode("ascii")),
    ]
    return Reply(status, page.html.encode(), media_type=_HTML, headers=[*guards, *headers])


def refuse_page(error: PetsemError, _now_ms: int) -> Reply:
    """A refusal, for people."""
    headers: list[Header] = []
    if error.code in (Code.LIMIT, Code.UNAVAILABLE):
        wait_s = error.detail.retry_after_s or RETRY_AFTER_S
        headers.append((b"retry-after", b"%d" % wait_s))
    return _page(status_of(error), refusal_page(error.message), headers)


_BROWSER_FAILS: Final = (
    Code.INVALID, Code.DENIED, Code.NOT_FOUND, Code.CONFLICT, Code.LIMIT, Code.UNAVAILABLE,
)  # fmt: skip
_FOR_PEOPLE: Final = " Its answers are pages, refusals too; the leader gives them."
_OF_LEADER: Final = " The leader answers."
_TAG: Final = "signing in"
_PAGE: Final = partial(
    Route,
    tag=_TAG,
    reply=None,
    media="text/html",
    fails=_BROWSER_FAILS,
    leader=True,
    refuse=refuse_page,
    kept=_KEPT,
)

ROUTES: Final = (
    Route(
        method="POST",
        path="/.well-known/petsem/3p",
        handle=_discharge,
        tag=_TAG,
        summary="Ask for the discharge of a ticket",
        about="Answers with the `discharge` where a `session` is good for one; with `poll_url` and "
        "`flow` where the provider is still being asked; else with `user_interactive`: have the "
        "person open `user_url`, and poll. `commitment` is the SHA-256 of 32 new random bytes, "
        "which are shown once, when the result is fetched. With `redirect_port` the browser ends "
        "at `http://127.0.0.1:PORT/done?ticket=RELEASE`, and the result is given out with that "
        "release only; without it the person types `code` on the page." + _OF_LEADER,
        body=http.ThirdParty,
        body_examples=(
            ("a browser is here", examples.THIRD_PARTY),
            ("again, without the person", examples.THIRD_PARTY_AGAIN),
        ),
        reply=http.ThirdPartyAnswer,
        examples=(
            ("a person has to sign in", examples.USER_INTERACTIVE),
            ("renewed", examples.DISCHARGED),
            ("renewing", examples.RENEWING),
        ),
        fails=(
            Code.INVALID,
            Code.UNAUTHENTICATED,
            Code.LIMIT,
            Code.UNAVAILABLE,
            Code.CORRUPT,
        ),
        leader=True,
    ),
    Route(
        method="POST",
        path="/.well-known/petsem/3p/poll",
        handle=_poll,
        tag=_TAG,
        summary="Fetch the result of a sign-in",
        about="Without `secret`, whether there is one: the discharge, or that there will be none, "
        "because the person has refused or is not let in, which is then said as `denied`. With it, "
        "and with `release` where the browser was sent to the requester's own port, the discharge, "
        "once. A flow lives ten minutes." + _OF_LEADER,
        body=http.ThirdPartyPoll,
        body_examples=(
            ("is it there?", examples.POLL),
            ("fetch it", examples.POLL_WITH_SECRET),
        ),
        reply=http.ThirdPartyPolled,
        examples=(
            ("not yet", http.ThirdPartyPolled(state="pending")),
            ("signed in", examples.POLLED),
        ),
        fails=(
            Code.INVALID,
            Code.DENIED,
            Code.NOT_FOUND,
            Code.UNAVAILABLE,
            Code.CORRUPT,
        ),
        leader=True,
    ),
    _PAGE(
        method="GET",
        path="/sso",
        handle=_begin,
        summary="Begin to sign in, in a browser",
        about="Gives the browser a cookie, and sends it on to the org's provider (302) if the "
        "answer comes back to the requester's own machine. Else shows a page that says who asked, "
        "with a form for the code." + _FOR_PEOPLE,
        query=FlowQuery,
        examples=(("the page", '<!doctype html><html lang="en">…'),),
    ),
    _PAGE(
        method="POST",
        path="/sso",
        handle=_confirm,
        summary="Confirm the code",
        about="The form of that page: `flow` and `code`, URL-encoded. Sends the browser on to the "
        "org's provider. A flow takes five codes. With `refuse` too, the sign-in is over, and who "
        "polls for it is told. Taken from the page itself only, as `Sec-Fetch-Site` or `Origin` "
        "says." + _FOR_PEOPLE,
        body=http.SsoForm,
        body_media=_FORM,
        body_examples=(("a code", examples.SSO_FORM),),
        status=303,
        examples=(("sent on", " "),),
    ),
    _PAGE(
        method="GET",
        path="/sso/callback/{org}",
        handle=_callback,
        summary="Come back from the provider",
        about="The redirect URI that the org's provider has to know, and no other one. Takes only "
        "the browser that was sent there. Ends with a page, or at the requester's own port (302)."
        + _FOR_PEOPLE,
        query=CallbackQuery,
        examples=(("signed in", '<!doctype html><html lang="en">…'),),
    ),
)
