"""Mistakes on the command line, in words that never repeat what was typed.

Guarantees: no argument that was not expected, and no value of an option, is in the sentence:
click quotes them, and a secret that was mistyped into the wrong place would end in a CI log. Only
names that the program itself declares are shown.
"""

from __future__ import annotations

import click

_UNSAID = "what was typed is not repeated here, since it may be a secret"


class Command(click.Command):
    """A command whose usage errors all know where they happened; click leaves it out of some."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


class Group(click.Group):
    """A group of such commands, which is one itself."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise


def usage_sentence(error: click.ClickException) -> str:
    """What was wrong with the command line and where help is."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return f"the command line was not understood ({_UNSAID}); see 'petsem --help'"
    path = context.command_path
    return f"{_problem(error, context.command)}; see '{path} --help'"


def _problem(error: click.ClickException, command: click.Command) -> str:
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return f"{_name(error.param)} is missing"
    if isinstance(error, click.BadParameter) and error.param is not None:
        return f"{_name(error.param)} {_expected(error.param.type)} ({_UNSAID})"
    if isinstance(error, click.NoSuchOption):
        maybe = " or ".join(error.possibilities or ())
        guess = f"; was {maybe} meant?" if maybe else ""
        return f"there is no such option ({_UNSAID}){guess}"
    if isinstance(error, click.BadOptionUsage):
        return _option_usage(error, command)
    if isinstance(command, click.Group):
        return f"there is no such command ({_UNSAID})"
    return f"there is an argument too many, or one in the wrong place ({_UNSAID})"


def _option_usage(error: click.BadOptionUsage, command: click.Command) -> str:
    for param in command.params:
        if isinstance(param, click.Option) and error.option_name in param.opts:
            takes = "takes no value" if param.is_flag else "needs a value"
            return f"{_name(param)} {takes}"
    return f"an option was used in a way that it does not allow ({_UNSAID})"


def _name(param: click.Parameter) -> str:
    if isinstance(param, click.Option):
        return max(param.opts, key=len)
    return param.human_readable_name


def _expected(kind: click.ParamType[object]) -> str:
    if isinstance(kind, click.Choice):
        return "must be one of " + ", ".join(str(choice) for choice in kind.choices)
    if isinstance(kind, click.IntRange):
        low = 0 if kind.min is None else int(kind.min)
        high = "" if kind.max is None else f" and at most {int(kind.max):,}"
        return f"must be a whole number, at least {low:,}{high}"
    return "has a value that it does not take"
