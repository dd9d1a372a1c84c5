"""What the authenticator is asked, and what it answers. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field

from petsem.sso.pages import Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody sends to have a ticket discharged. `ip` is where he is, as the door sees it."""

    ticket: str = field(repr=False)
    commitment: str | None = None
    redirect_port: int | None = None
    session: str | None = field(default=None, repr=False)
    ip: str | None = None


@dataclass(frozen=True, slots=True)
class Discharged:
    """The discharge as text, not bound; `session` renews it without the person, if there is one."""

    discharge: str = field(repr=False)
    session: str | None = field(repr=False)
    user: str
    expires_at: str


@dataclass(frozen=True, slots=True)
class Polling:
    """The provider is being asked, without the person."""

    poll_url: str
    flow: str


@dataclass(frozen=True, slots=True)
class Interactive:
    """A person has to sign in. `code` is what he is asked for, None where his browser comes back to
    his own machine."""

    user_url: str
    poll_url: str
    flow: str
    code: str | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """There is no result for who asks, or, `ready`, one that waits for the secret."""

    ready: bool


@dataclass(frozen=True, slots=True)
class Callback:
    """What a provider sends a browser back with, and to which org's redirect URI. `code` is None if
    it sent an error, and `denied` says that this was the person's no, or the provider's
    (`access_denied`); `issuer` is RFC 9207's `iss`, where it sends one."""

    org: str
    state: str = field(repr=False)
    code: str | None = field(repr=False)
    issuer: str | None = None
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Going:
    """A browser is sent on, or shown a page, and is given a cookie or relieved of it."""

    to: str | Page = field(repr=False)
    cookie: str | None = field(default=None, repr=False)
