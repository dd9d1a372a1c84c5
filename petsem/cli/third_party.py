"""The calls of a discharge: what is asked of an authenticator, and what it may answer.

Guarantees: an answer is a discharge of the very ticket that was asked about, a place to poll, or a
page for the person, and nothing in between; the poll secret goes out only to collect; neither it
nor a discharge is in a `repr`. Where the answers point to is judged by `places`.

Does not wait for anybody: `waiting` does.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from petsem import base64url
from petsem.cli.ageing import earliest_end_s
from petsem.cli.logins import SESSION_MAX_CHARS
from petsem.cli.narrowing import Scope
from petsem.cli.replies import decode, not_understood
from petsem.cli.sending import Call, Sender
from petsem.errors import Code, PetsemError
from petsem.tokens.macaroon import Macaroon
from petsem.tokens.reasons import TokenRefused
from petsem.tokens.text import parse_token
from petsem.wire import http

PATH: Final = "/.well-known/petsem/3p"
FLOW_MAX_CHARS: Final = 4 * 1024
_SECRET_BYTES: Final = 32
_CODE: Final = re.compile(r"[A-Z0-9]{4}-[A-Z0-9]{4}", re.ASCII)
_OURS: Final = Scope(())

Reply = TypeVar("Reply")


class Ended(Exception):  # noqa: N818 - an answer, not a fault
    """The session renews nothing any more: the person has to sign in."""


@dataclass(frozen=True, slots=True)
class Discharge:
    """An unbound discharge, the session that renews it, whom it is for and when it ends."""

    discharge: str = field(repr=False)
    session: str | None = field(repr=False)
    user: str | None
    until_ms: int


@dataclass(frozen=True, slots=True)
class Flow:
    """Where to poll and for what; `user_url` if the person has to go there, and the code to type
    there if the page asks for one."""

    poll_url: str
    flow: str = field(repr=False)
    user_url: str | None = None
    code: str | None = None


class PollSecret:
    """Drawn for one flow. The authenticator is told its hash first, and it only to collect."""

    def __init__(self) -> None:
        self._bytes = secrets.token_bytes(_SECRET_BYTES)

    @property
    def commitment(self) -> str:
        """Its SHA-256, in unpadded base64url."""
        return base64url.encode(hashlib.sha256(self._bytes).digest())

    def reveal(self) -> str:
        """The secret itself, in unpadded base64url."""
        return base64url.encode(self._bytes)


def ask(
    sender: Sender, ticket: str, secret: PollSecret, *, redirect_port: int | None = None
) -> Discharge | Flow:
    """Ask for the discharge of `ticket`, for a person who may have to sign in."""
    body = http.ThirdParty(ticket=ticket, commitment=secret.commitment, redirect_port=redirect_port)
    return _understood(_send(sender, PATH, body, http.ThirdPartyAnswer), ticket)


def ask_with_session(
    sender: Sender, ticket: str, secret: PollSecret, session: str
) -> Discharge | Flow:
    """Ask for the discharge of `ticket` without the person; Ended if that is no longer possible.

    Sent once: a session may be good for one renewal only. A flow is to be polled for soon.
    """
    body = http.ThirdParty(ticket=ticket, commitment=secret.commitment, session=session)
    try:
        answer = _understood(_send(sender, PATH, body, http.ThirdPartyAnswer), ticket)
    except PetsemError as error:
        if error.code in (Code.UNAUTHENTICATED, Code.DENIED):
            raise Ended from error
        raise
    if isinstance(answer, Flow) and answer.user_url is not None:
        raise Ended
    return answer


def is_ready(sender: Sender, path: str, flow: str) -> bool:
    """Whether there is a result that the secret alone collects: a discharge, or a refusal."""
    body = http.ThirdPartyPoll(flow=flow)
    return _send(sender, path, body, http.ThirdPartyPolled).state == "ready"


def collect(
    sender: Sender, path: str, flow: str, ticket: str, secret: PollSecret, release: str | None
) -> Discharge | None:
    """The discharge of a flow; None if it has none yet. `release` is what the browser brought."""
    body = http.ThirdPartyPoll(flow=flow, secret=secret.reveal(), release=release)
    said = _send(sender, path, body, http.ThirdPartyPolled)
    if said.state is not UNSET:
        return None
    if said.discharge is UNSET:
        raise not_understood()
    return _discharge(said.discharge, said, ticket)


def _send(sender: Sender, path: str, body: msgspec.Struct, reply: type[Reply]) -> Reply:
    call = Call("POST", path, _OURS, content=msgspec.json.encode(body))
    return decode(sender.exchange(call), reply)


def _understood(answer: http.ThirdPartyAnswer, ticket: str) -> Discharge | Flow:
    """The one thing that an answer says; `internal` for none, several, or one that is no such."""
    page = answer.user_interactive
    if [answer.discharge, answer.poll_url, page].count(UNSET) != 2:
        raise not_understood()
    if answer.discharge is not UNSET:
        return _discharge(answer.discharge, answer, ticket)
    if page is not UNSET:
        return _flow(page.poll_url, page.flow, page.user_url, page.code)
    return _flow(answer.poll_url, answer.flow, None, None)


def _flow(
    poll_url: str | UnsetType, flow: str | UnsetType, user_url: str | None, code: str | None
) -> Flow:
    if poll_url is UNSET or flow is UNSET or not 0 < len(flow) <= FLOW_MAX_CHARS:
        raise not_understood()
    if code is not None and _CODE.fullmatch(code) is None:
        raise not_understood()
    return Flow(poll_url, flow, user_url, code)


def _discharge(
    text: str, answer: http.ThirdPartyAnswer | http.ThirdPartyPolled, ticket: str
) -> Discharge:
    try:
        token = parse_token(text)
    except TokenRefused as refused:
        raise not_understood() from refused
    until_s = earliest_end_s(token.root)
    nested = token.discharges or any(each.vid is not None for each in token.root.caveats)
    if nested or until_s is None or token.root.identifier != _bytes_of(ticket):
        raise not_understood()
    session = None if answer.session is UNSET else answer.session
    if session is not None and not 0 < len(session) <= SESSION_MAX_CHARS:
        raise not_understood()
    user = None if answer.user is UNSET else answer.user
    return Discharge(text, session, user, until_s * 1000)


def asks_for(root: Macaroon, ticket: str) -> bool:
    """Whether a token has the caveat with that ticket."""
    wanted = _bytes_of(ticket)
    return any(each.vid is not None and each.cid == wanted for each in root.caveats)


def _bytes_of(ticket: str) -> bytes:
    """The bytes of a ticket; `internal` for what no authenticator takes."""
    data = base64url.decode(ticket)
    if data is None:
        raise not_understood()
    return data
