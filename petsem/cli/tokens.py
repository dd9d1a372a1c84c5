"""`petsem token create`, `list`, `revoke` and `rotate-key`: what needs a node.

Guarantees: a new token goes to stdout, alone, or into a new file of mode 0600, and nowhere else;
no token is taken from argv. Who may mint what, the node decides.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from petsem.cli.api import connect
from petsem.cli.caveat_options import caveat_options, wish_of
from petsem.cli.credentials import token_in_file
from petsem.cli.durability import settle
from petsem.cli.narrowing import Scope
from petsem.cli.options import org_argument, pass_run, remote
from petsem.cli.output import Table, note, show
from petsem.cli.paging import rows_of
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.errors import invalid
from petsem.limits import LABEL_MAX_CHARS
from petsem.model import Kind, check_org
from petsem.server.files import write_new
from petsem.tokens.identifier import Identifier
from petsem.tokens.text import PREFIX, parse_token
from petsem.wire.http import Mint, Minted, Revoked, RootKeyRotated, TokenInfo, TokenList

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_DEFAULT_TTL = "24h"


def _org_option(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    return value if value is None or context.resilient_parsing else check_org(value)


_org = click.option(
    "--org",
    metavar="ORG",
    callback=_org_option,
    help="The org (without it: tokens of the cluster key).",
)


@click.command("create", cls=Command)
@caveat_options
@click.option("--kind", type=click.Choice([kind.text for kind in Kind]), help="What it stands for.")
@click.option("--label", metavar="TEXT", help="For people; no identity.")
@click.option("--out", metavar="FILE", help="Write it to a new file of mode 0600, not to stdout.")
@remote
@pass_run
def create_command(
    run: Run,
    org: str | None,
    app: str | None,
    actions: tuple[str, ...],
    machines: tuple[str, ...],
    secrets: tuple[str, ...],
    others: tuple[str, ...],
    ttl: str | None,
    kind: str | None,
    label: str | None,
    out: str | None,
) -> None:
    """Mint a token: of the org's key with --org or --app, else of the cluster's.

    Actions are required. It lives 24 h unless --ttl says otherwise, and at most as long as its
    kind may.
    """
    wish = wish_of(org, app, actions, machines, secrets, others, ttl or _DEFAULT_TTL)
    if not wish.actions:
        raise invalid("say what the token may do: --action secrets:read, for example")
    if label is not None and len(label) > LABEL_MAX_CHARS:
        raise invalid(f"a label has at most {LABEL_MAX_CHARS} characters")
    body = Mint(wish.caveats(run.clock.unix_ms()), wish.org, kind, label)
    with connect(run) as api:
        # Never narrowed by app or action: the new token inherits its asker's caveats.
        minted = api.change("POST", "/v1/tokens", Minted, Scope((), wish.org), body=body)
    if out is not None:
        write_new(Path(out), f"{minted.token}\n".encode("ascii"))
        told = {"id": minted.id, "expires_at": minted.expires_at, "file": out}
        show(run, told, line=f"token {minted.id}, good until {minted.expires_at}, is in {out}")
        return
    show(run, minted, line=minted.token)
    if not run.is_json:
        note(f"token {minted.id}, good until {minted.expires_at}")


@click.command("list", cls=Command)
@_org
@remote
@pass_run
def list_command(run: Run, org: str | None) -> None:
    """The tokens issued: who they are, what they may, until when. Never a token itself."""
    with connect(run) as api:
        tokens: list[TokenInfo] = rows_of(
            api,
            _path(org),
            TokenList,
            Scope(("tokens:list",), org),
            lambda page: (page.tokens, page.next),
        )
    rows = [
        (each.id, each.subject, each.label, each.state, each.expires_at, "; ".join(each.caveats))
        for each in tokens
    ]
    columns = ("ID", "SUBJECT", "LABEL", "STATE", "EXPIRES", "CAVEATS")
    show(run, {"tokens": tokens}, Table(columns, rows))


@click.command("revoke", cls=Command)
@click.argument("token_id", metavar="[ID]", required=False)
@_org
@click.option(
    "--token-file", metavar="FILE|-", help="Revoke the token in this file, or on stdin, instead."
)
@remote
@pass_run
def revoke_command(run: Run, token_id: str | None, org: str | None, token_file: str | None) -> None:
    """Revoke a token, by its id, with all that was minted or attenuated from it."""
    if (token_id is None) == (token_file is None):
        raise invalid("name one token: by its ID, or with --token-file")
    revoked_id = _id_in_file(token_file) if token_file is not None else _checked_id(token_id or "")
    with connect(run) as api:
        revoked = api.change(
            "DELETE", f"{_path(org)}/{revoked_id}", Revoked, Scope(("tokens:revoke",), org)
        )
    show(run, revoked, line=f"token {revoked.id} is revoked since {revoked.revoked_at}")
    settle(revoked.durability, require=False)


@click.command("rotate-key", cls=Command)
@org_argument
@remote
@pass_run
def rotate_key_command(run: Run, org: str) -> None:
    """Mint an org's tokens under a new root key from now on; tokens of the old one stay valid."""
    with connect(run) as api:
        rotated = api.change(
            "POST", f"/v1/orgs/{org}/root-keys", RootKeyRotated, Scope(("orgs:admin",), org)
        )
    show(run, rotated, line=f"tokens of {org} are now minted under root key {rotated.key_id}")


def _path(org: str | None) -> str:
    return "/v1/tokens" if org is None else f"/v1/orgs/{org}/tokens"


def _checked_id(text: str) -> str:
    if text.startswith(PREFIX):
        raise invalid(
            "that is a token, which now stands in the shell's history; revoke it with "
            "--token-file - and type or pipe it in"
        )
    if not _ID.fullmatch(text):
        raise invalid("a token's id is 32 hexadecimal digits; see: petsem token list")
    return text


def _id_in_file(path: str) -> str:
    token = parse_token(token_in_file(path, "--token-file"))
    return Identifier.parse(token.root.identifier).token_id
