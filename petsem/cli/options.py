"""Options that many commands share, and how they reach the `Run`.

Guarantees: every command takes `-o` and `--debug`; every command that asks a node takes
`--insecure`. Values that do not fit are refused in words of our own, never quoted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from petsem.cli.run import Format, Run
from petsem.errors import invalid
from petsem.model import check_org, split_app

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

pass_run = click.make_pass_decorator(Run)


@dataclass(frozen=True, slots=True)
class AppRef:
    """An app by its two names, both checked."""

    org: str
    app: str

    def __str__(self) -> str:
        return f"{self.org}/{self.app}"

    @property
    def path(self) -> str:
        """Its place in the HTTP API."""
        return f"/v1/orgs/{self.org}/apps/{self.app}"

    @classmethod
    def parse(cls, text: str) -> AppRef:
        """The app that `ORG/APP` names."""
        return cls(*split_app(text))


def common(command: Decorated) -> Decorated:
    """`-o` and `--debug`."""
    for option in (
        click.option(
            "--debug",
            is_flag=True,
            expose_value=False,
            callback=_set_debug,
            help="On failure, also print where it happened (never values).",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Choice([each.value for each in Format]),
            expose_value=False,
            callback=_set_output,
            help="How to print results (default: table).",
        ),
    ):
        command = option(command)
    return command


def remote(command: Decorated) -> Decorated:
    """The common options and `--insecure`, for commands that ask a node over HTTP."""
    insecure = click.option(
        "--insecure",
        is_flag=True,
        expose_value=False,
        callback=_set_insecure,
        help="Send token and secrets in clear to a node that is not on this machine.",
    )
    return common(insecure(command))


def app_option(command: Decorated) -> Decorated:
    """`-a ORG/APP`, or `PETSEM_APP`."""
    return click.option(
        "-a",
        "--app",
        "app",
        metavar="ORG/APP",
        callback=_app,
        help="The app (default: PETSEM_APP).",
    )(command)


def org_option(command: Decorated) -> Decorated:
    """`--org ORG`, of tokens: without it they are the cluster key's."""
    return click.option(
        "--org",
        metavar="ORG",
        callback=_optional_org,
        help="The org (without it: tokens of the cluster key).",
    )(command)


def org_argument(command: Decorated) -> Decorated:
    """The positional ORG."""
    return click.argument("org", metavar="ORG", callback=_checked_org)(command)


def _set_output(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.ensure_object(Run).output = Format(value)


def _set_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Run).debug = True


def _set_insecure(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Run).insecure = True


def _app(context: click.Context, _: click.Parameter, value: str | None) -> AppRef | None:
    if context.resilient_parsing:
        return None
    text = value or context.ensure_object(Run).environ.get("PETSEM_APP")
    if not text:
        raise invalid("no app is named; give -a ORG/APP or set PETSEM_APP")
    return AppRef.parse(text)


def _optional_org(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    return value if value is None or context.resilient_parsing else check_org(value)


def _checked_org(context: click.Context, _: click.Parameter, value: str) -> str | None:
    return None if context.resilient_parsing else check_org(value)
