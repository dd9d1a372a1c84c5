"""`petsem token create`, `list` and `rotate-key`: what needs a node.

Guarantees: a new token goes to stdout, alone, or into a new file of mode 0600, and nowhere else;
no token is taken from argv. Who may mint what, the node decides.
"""

from __future__ import annotations

from pathlib import Path

import click

from petsem.cli.api import connect
from petsem.cli.caveat_options import caveat_options, wish_of
from petsem.cli.narrowing import Scope
from petsem.cli.options import org_argument, org_option, pass_run, remote
from petsem.cli.output import Table, note, show
from petsem.cli.paging import rows_of
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.errors import invalid
from petsem.limits import LABEL_MAX_CHARS
from petsem.model import LIFE_DEFAULT_S, Kind
from petsem.server.files import write_new
from petsem.wire.http import Mint, Minted, RootKeyRotated, TokenInfo, TokenList

_CLOCKS_APART_S = 60
_A_DAY_S = 86_400
_KINDS = [kind.text for kind in Kind if kind is not Kind.PERSON]
"""A person's token comes from signing in."""


@click.command("create", cls=Command)
@caveat_options
@click.option("--kind", type=click.Choice(_KINDS), help="What it stands for.")
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

    Actions are required. Without --ttl an operator's lives 24 h, a service's 15 min, and others
    90 days; --ttl says otherwise, up to what its kind may.
    """
    life = ttl or f"{_default_life_s(kind, of_org=(org or app) is not None)}s"
    wish = wish_of(org, app, actions, machines, secrets, others, life)
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


def _default_life_s(kind: str | None, *, of_org: bool) -> int:
    natural = Kind.ORG if of_org else Kind.OPERATOR
    life_s = LIFE_DEFAULT_S[natural if kind is None else Kind.from_text(kind)]
    # Those of 90 days may live no longer, and our clock may be a little ahead of the node's.
    return life_s - _CLOCKS_APART_S if life_s > _A_DAY_S else life_s


@click.command("list", cls=Command)
@org_option
@click.option(
    "--state", type=click.Choice(["live", "expired", "revoked"]), help="Only those (default: all)."
)
@remote
@pass_run
def list_command(run: Run, org: str | None, state: str | None) -> None:
    """The tokens issued: who they are, what they may, until when, who made them, and when a node
    last verified them (to within some minutes). Never a token itself."""
    with connect(run) as api:
        tokens: list[TokenInfo] = rows_of(
            api,
            _path(org),
            TokenList,
            Scope(("tokens:list",), org),
            lambda page: (page.tokens, page.next),
        )
    shown = [each for each in tokens if state in (None, each.state)]
    rows = [
        (
            *(each.id, each.subject, each.label, each.state, each.expires_at),
            *(each.created_by, each.last_seen, "; ".join(each.caveats)),
        )
        for each in shown
    ]
    columns = ("ID", "SUBJECT", "LABEL", "STATE", "EXPIRES", "MADE BY", "LAST SEEN", "CAVEATS")
    show(run, {"tokens": shown}, Table(columns, rows))
    if not shown and not run.is_json:
        which = "token" if state is None else f"{state} token"
        note(f"there is no {which} of {org or 'the cluster key'}")


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
