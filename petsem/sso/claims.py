"""Who of a provider's people may have a discharge: the org's rules, held against what it says.

Guarantees: the ticket's domains and the org's of today both count, so neither an old ticket nor a
setting that was widened since lets in more than both allow. It trusts the `Person`, whom
`id_token` has read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from petsem.sso.orgs import SsoOrg
from petsem.sso.outcomes import Failure
from petsem.sso.refusals import refused


@dataclass(frozen=True, slots=True)
class Person:
    """Who signed in. `claims` are all that the provider says of him."""

    subject: str
    email: str
    claims: dict[str, Any] = field(repr=False)


def check_person(person: Person, org: SsoOrg, ticket_domains: Sequence[str]) -> None:
    """`denied` unless that person may sign in to the org."""
    check_domain(person.email, org, ticket_domains)
    if org.groups and not _in_group(person, org):
        raise refused(
            "who signed in is in none of the groups that the org asks for", Failure.NOT_ALLOWED
        )


def check_domain(email: str, org: SsoOrg, ticket_domains: Sequence[str]) -> None:
    """The same for the domain of the address alone."""
    domain = email.rpartition("@")[2]
    for allowed in (org.domains, ticket_domains):
        if allowed and domain not in allowed:
            raise refused(
                "the e-mail address of who signed in is of a domain that the org refuses",
                Failure.NOT_ALLOWED,
            )


def _in_group(person: Person, org: SsoOrg) -> bool:
    named = person.claims.get(org.groups_claim)
    groups = [named] if isinstance(named, str) else named
    return isinstance(groups, list) and any(group in groups for group in org.groups)
