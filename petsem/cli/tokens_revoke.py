"""`petsem token revoke`: one token, or all of a person, of an app, or of an org.

Guarantees: no token is taken from argv. All of an org's end only when its name is typed back, or
given with `--yes`. That somebody had no token to end is an error, so that an address which was
mistyped is not taken for one whose tokens have ended.
"""

from __future__ import annotations

import re

import click

from petsem.cli.api import connect
from petsem.cli.confirm import confirm_name
from petsem.cli.credentials import token_in_file
from petsem.cli.durability import settle
from petsem.cli.narrowing import Scope
from petsem.cli.options import AppRef, org_option, pass_run, remote
from petsem.cli.output import show
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.errors import invalid, not_found
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import PREFIX, parse_token
from petsem.wire.http import Revoked, RevokedMany, RevokeMany

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SUBJECT = re.compile(r"[a-z-]{1,16}:[\x21-\x7e]{1,320}", re.ASCII)
_SCOPE = ("tokens:revoke",)


@click.command("revoke", cls=Command)
@click.argument("token_id", metavar="[ID]", required=False)
@org_option
@click.option(
    "--token-file", metavar="FILE|-", help="Revoke the token in this file, or on stdin, instead."
)
@click.option("--person", metavar="EMAIL", help="All of this person, in the org.")
@click.option("--subject", metavar="KIND:ID", help="All of this subject, in the org.")
@click.option("--app", metavar="ORG/APP", help="All that may act for this app by their caveats.")
@click.option("--all", "every", is_flag=True, help="All of the org, your own too if it is its.")
@click.option("--yes", metavar="ORG", help="With --all: do not ask; name the org.")
@remote
@pass_run
def revoke_command(
    run: Run,
    token_id: str | None,
    org: str | None,
    token_file: str | None,
    person: str | None,
    subject: str | None,
    app: str | None,
    every: bool,
    yes: str | None,
) -> None:
    """Revoke a token, by its id, with all that was minted or attenuated from it; or many at once.

    If there is none of a person or subject, the exit code is 4. A person who may still sign in gets
    a new token by that: take the address off at the provider.
    """
    given = (token_id, token_file, person, subject, app, every or None)
    if sum(each is not None for each in given) != 1:
        raise invalid(
            "name what to revoke, once: a token by its ID or with --token-file, or all with "
            "--person, --subject, --app or --all"
        )
    if yes is not None and not every:
        raise invalid("--yes goes with --all; nothing else asks")
    if token_id is not None or token_file is not None:
        revoked_id = _checked_id(token_id) if token_file is None else _id_in_file(token_file)
        _revoke_one(run, org, revoked_id)
        return
    if app is not None:
        ref = AppRef.parse(app)
        if org not in (None, ref.org):
            raise invalid("--org and --app name different orgs; give one of them")
        _revoke_many(run, ref.org, RevokeMany(app=ref.app), f"that may act for {app}")
        return
    if org is None:
        raise invalid("name the org, with --org ORG; tokens of the cluster key end one by one")
    if every:
        confirm_name(org, yes, f"this ends every token of the org {org}, at once and for ever")
        _revoke_many(run, org, RevokeMany(all=True), f"of {org}")
        return
    whose = _checked_subject(f"person:{person}" if subject is None else subject)
    _revoke_many(run, org, RevokeMany(subject=whose), f"of {whose} in {org}")


def _revoke_one(run: Run, org: str | None, token_id: str) -> None:
    path = "/v1/tokens" if org is None else f"/v1/orgs/{org}/tokens"
    with connect(run) as api:
        revoked = api.change("DELETE", f"{path}/{token_id}", Revoked, Scope(_SCOPE, org))
    show(run, revoked, line=f"token {revoked.id} is revoked since {revoked.revoked_at}")
    settle(revoked.durability, require=False)


def _revoke_many(run: Run, org: str, body: RevokeMany, whose: str) -> None:
    path = f"/v1/orgs/{org}/revocations"
    with connect(run) as api:
        done = api.change("POST", path, RevokedMany, Scope(_SCOPE, org), body=body)
    tokens = "token is" if done.revoked == 1 else "tokens are"
    none = f"there was no token {whose} that had not been revoked"
    line = f"{done.revoked:,} {tokens} revoked now: all {whose}" if done.revoked else none
    nobody = body.subject is not None and not done.revoked
    show(run, done, line=None if nobody else line)
    if nobody:
        raise not_found(f"{none}; see: petsem token list --org {org}")
    settle(done.durability, require=False)


def _checked_subject(text: str) -> str:
    _refuse_token(text)
    if not _SUBJECT.fullmatch(text):
        raise invalid("a subject is KIND:ID, such as person:a@example.com; see: petsem token list")
    return text


def _refuse_token(text: str) -> None:
    if PREFIX in text:
        raise invalid(
            "that is a token, which now stands in the shell's history; revoke it with "
            "--token-file - and type or pipe it in"
        )


def _checked_id(text: str | None) -> str:
    assert text is not None
    _refuse_token(text)
    if not _ID.fullmatch(text):
        raise invalid("a token's id is 32 hexadecimal digits; see: petsem token list")
    return text


def _id_in_file(path: str) -> str:
    token = parse_token(token_in_file(path, "--token-file"))
    return Identifier.parse(token.root.identifier).token_id
