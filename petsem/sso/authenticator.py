"""The authenticator: tickets in, discharges out, once a person has signed in."""

from __future__ import annotations

from petsem.clock import Clock
from petsem.sso.orgs import OrgOf


class Authenticator:
    """Signs people in at their org's provider and discharges the tickets of their tokens.

    `public_url` is where browsers and the CLI reach the cluster's HTTP door, without a slash at
    its end; None where the node has none, and then nobody can sign in here.
    """

    def __init__(self, clock: Clock, public_url: str | None, org_of: OrgOf) -> None:
        self._clock = clock
        self._public_url = public_url
        self._org_of = org_of

    async def close(self) -> None:
        """Close what is open to providers."""
