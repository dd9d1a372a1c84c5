"""Bodies of signing in: tickets, the authenticator, and the token in the end."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from petsem import limits
from petsem.wire.http.shared import Base64Text, In, Out, TenantName, Time


class Login(In, frozen=True):
    """Whose people sign in."""

    org: TenantName


class LoginTicket(Out, frozen=True):
    """What the authenticator is to be asked with, at `/.well-known/petsem/3p`."""

    ticket: Base64Text


class LoginToken(In, frozen=True):
    """A ticket and its discharge, for the token of the person who has signed in."""

    ticket: Base64Text
    discharge: Annotated[str, Meta(max_length=limits.TOKEN_MAX_BYTES)]
    actions: (
        Annotated[
            list[str],
            Meta(
                min_length=1,
                max_length=32,
                description="all that the org lets people do if left out",
            ),
        ]
        | None
    ) = None


SealedText = Annotated[str, Meta(min_length=1, max_length=16 * 1024)]

Secret32 = Annotated[
    str, Meta(min_length=43, max_length=43, description="32 bytes in unpadded base64url")
]


class ThirdParty(In, frozen=True, kw_only=True):
    """A ticket that is to be discharged."""

    ticket: Base64Text
    commitment: (
        Annotated[
            str,
            Meta(
                min_length=43,
                max_length=43,
                description="SHA-256 of a new secret of 32 bytes, in unpadded base64url; may be "
                "left out where a session is sure to do",
            ),
        ]
        | None
    ) = None
    redirect_port: (
        Annotated[
            int,
            Meta(
                ge=1024,
                le=65535,
                description="where whoever asks listens on 127.0.0.1 for the browser",
            ),
        ]
        | None
    ) = None
    session: SealedText | None = None


class UserInteractive(Out, frozen=True):
    """What it takes to have a person sign in."""

    user_url: str
    poll_url: str
    flow: SealedText
    code: Annotated[
        str | None, Meta(description="to be shown to the person; null with `redirect_port`")
    ]


class ThirdPartyAnswer(Out, frozen=True, kw_only=True):
    """The discharge, not bound to its token; or where to poll; or what a person has to do."""

    discharge: str | UnsetType = UNSET
    session: (
        Annotated[str | None, Meta(description="renews it without the person, if there is one")]
        | UnsetType
    ) = UNSET
    user: Annotated[str, Meta(description="whom it names")] | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
    poll_url: str | UnsetType = UNSET
    flow: SealedText | UnsetType = UNSET
    user_interactive: UserInteractive | UnsetType = UNSET


class ThirdPartyPoll(In, frozen=True, kw_only=True):
    """Which sign-in, and, to fetch its result, who began it."""

    flow: SealedText
    secret: Secret32 | None = None
    release: Secret32 | None = None


class SsoForm(In, frozen=True):
    """The form of the page on which a person types a code."""

    flow: SealedText
    code: Annotated[str, Meta(description="as the terminal shows it")]
    refuse: Annotated[str, Meta(description="if it is there, the answer is no")] | None = None


class ThirdPartyPolled(Out, frozen=True, kw_only=True):
    """Whether there is a result, or the result."""

    state: Literal["pending", "ready"] | UnsetType = UNSET
    discharge: str | UnsetType = UNSET
    session: str | UnsetType | None = UNSET
    user: str | UnsetType = UNSET
    expires_at: Time | UnsetType = UNSET
