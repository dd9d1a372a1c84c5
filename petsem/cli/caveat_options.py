"""Caveats as options, for `token create` and `token attenuate`.

Guarantees: what comes out is in the caveat grammar, or refused without being quoted. Order is
fixed (org, app, action, machine, secret, others, time), so that equal options give equal caveats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from petsem.cli.options import AppRef
from petsem.errors import invalid
from petsem.model import check_attribute, check_org
from petsem.tokens.caveats import one_of, parse_predicates, time_before

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_LIFE: Final = re.compile(r"([1-9][0-9]{0,6})([smhd])", re.ASCII)
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class CaveatWish:
    """What the options say. `org` is apart, because minting puts it in front by itself."""

    org: str | None
    app: str | None
    actions: tuple[str, ...]
    machines: tuple[str, ...]
    secrets: tuple[str, ...]
    others: tuple[str, ...]
    life_s: int | None

    def caveats(self, now_ms: int) -> list[str]:
        """All but the org, in order."""
        lists = {
            "app": () if self.app is None else (self.app,),
            "action": self.actions,
            "machine": self.machines,
            "secret": self.secrets,
        }
        made = [one_of(key, *values) for key, values in lists.items() if values]
        made += self.others
        if self.life_s is not None:
            made.append(time_before(now_ms + self.life_s * 1000))
        return made


def caveat_options(command: Decorated) -> Decorated:
    """The options; they arrive as one `CaveatWish` named `wish`, made by `wish_of`."""
    options = (
        click.option("--org", metavar="ORG", help="Hold the token to this org."),
        click.option("-a", "--app", metavar="ORG/APP", help="Hold the token to this app."),
        click.option(
            "--action",
            "actions",
            metavar="ACTION[,…]",
            multiple=True,
            help="Hold the token to these actions, such as secrets:read.",
        ),
        click.option(
            "--machine", "machines", metavar="ID[,…]", multiple=True, help="And to these machines."
        ),
        click.option(
            "--secret",
            "secrets",
            metavar="NAME[,…]",
            multiple=True,
            help="And to these secrets; a final * stands for any ending.",
        ),
        click.option(
            "--caveat",
            "others",
            metavar="'KEY OP VALUE'",
            multiple=True,
            help="Any other caveat, as the grammar spells it.",
        ),
        click.option("--ttl", metavar="30s|15m|24h|30d", help="How long the token lives."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def wish_of(
    org: str | None,
    app: str | None,
    actions: Iterable[str],
    machines: Iterable[str],
    secrets: Iterable[str],
    others: tuple[str, ...],
    ttl: str | None,
) -> CaveatWish:
    """The options' values, checked."""
    ref = None if app is None else AppRef.parse(app)
    if org is not None:
        check_org(org)
    if ref is not None and org not in (None, ref.org):
        raise invalid("--org and --app name different orgs; give one of them")
    parse_predicates(others)
    return CaveatWish(
        org=ref.org if ref is not None else org,
        app=None if ref is None else ref.app,
        actions=_values(actions, "an action"),
        machines=_values(machines, "a machine"),
        secrets=_values(secrets, "a secret"),
        others=others,
        life_s=None if ttl is None else life_s(ttl),
    )


def life_s(text: str) -> int:
    """Seconds of `90s`, `15m`, `24h` or `30d`."""
    found = _LIFE.fullmatch(text)
    if found is None:
        raise invalid("--ttl is a number and a unit, such as 90s, 15m, 24h or 30d")
    return int(found[1]) * _UNIT_S[found[2]]


def _values(given: Iterable[str], what: str) -> tuple[str, ...]:
    each = [value.strip() for text in given for value in text.split(",")]
    return tuple(dict.fromkeys(check_attribute(value, what) for value in each))
