"""`petsem login`: a person's sign-in to an org.

Guarantees: the token goes into a private file and nowhere else, unless `--out` asks for a copy;
what the node answers is taken only if the token asks for the very discharge that was just made. A
sign-in that is replaced ends as `logout` ends it, or a remark says that it has not. Who may sign in
and what for, the org and its provider decide.
"""

from __future__ import annotations

from pathlib import Path

import click

from petsem.cli.api import connect
from petsem.cli.browsers import local_browser
from petsem.cli.ending import end_replaced
from petsem.cli.failure import sentence_of
from petsem.cli.logins import Login, Logins
from petsem.cli.options import pass_run, remote
from petsem.cli.output import Table, note, show, warn
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.clock import rfc3339
from petsem.errors import PetsemError, conflict, invalid
from petsem.model import check_attribute, check_org
from petsem.server.files import present, write_new
from petsem.tokens.authority import within_org_authority


def _org_if_any(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    return value if value is None or context.resilient_parsing else check_org(value)


org_argument = click.argument("org", metavar="[ORG]", required=False, callback=_org_if_any)


@click.command("login", cls=Command)
@org_argument
@click.option(
    "--action",
    "actions",
    metavar="ACTION[,…]",
    multiple=True,
    help="Of what the org lets its people do, only this.",
)
@click.option(
    "--no-browser", is_flag=True, help="Show a page and a code, for a browser somewhere else."
)
@click.option(
    "--out", metavar="FILE", help="Also write the token, with its discharge, to a new file (0600)."
)
@remote
@pass_run
def login_command(
    run: Run, org: str | None, actions: tuple[str, ...], no_browser: bool, out: str | None
) -> None:
    """Sign in to ORG, in a browser. Without ORG: who is signed in where, and until when.

    Commands about that org then need no other token. The sign-in renews itself while the org
    lets it, and ends after 12 hours at the latest. An earlier one to ORG is revoked.
    """
    if org is None:
        if actions or no_browser or out is not None:
            raise invalid("name the org to sign in to: petsem login ORG")
        _show_logins(run)
        return
    asked = _actions(actions)
    if out is not None and present(Path(out)):
        raise conflict(f"{out} exists already; move it away or choose another name")
    logins = Logins.of_environ(run.environ)
    with logins.locked():
        # Better now than when the person has signed in: is there a place to keep it?
        pass
    login = _signed_in(run, org, asked, no_browser=no_browser)
    with logins.locked():
        before = _kept(logins, org)
        path = logins.save(login)
    told = {**_told(login), "file": str(path)}
    if out is not None:
        write_new(Path(out), f"{login.text}\n".encode("ascii"))
        told["out"] = out
    until = rfc3339(login.token_until_ms)
    show(run, told, line=f"signed in to {org} as {login.user}, until {until} at the latest")
    if out is not None and not run.is_json:
        note(f"the copy in {out} does not renew itself: it ends at {rfc3339(login.until_ms)}")
    if isinstance(before, PetsemError):
        warn(
            "the sign-in before this one could not be read, so its token was not revoked: it ends "
            f"within 12 hours, or an operator ends it (see: petsem token list --org {org})"
        )
    elif before is not None and before.token_id != login.token_id:
        end_replaced(run, before)


def _kept(logins: Logins, org: str) -> Login | PetsemError | None:
    """The sign-in that is about to be replaced, or why it cannot be read."""
    try:
        return logins.load(org)
    except PetsemError as error:
        return error


def _signed_in(run: Run, org: str, actions: list[str] | None, *, no_browser: bool) -> Login:
    # Imported late, as everything that loads httpx.
    from petsem.cli.permission import permission_of, ticket_for
    from petsem.cli.sign_in import sign_in

    browser = None if no_browser else local_browser(run.environ)
    with connect(run, anonymous=True) as api:
        ticket = ticket_for(api, org)
        discharge = sign_in(run, api.nodes, ticket, browser)
        return permission_of(run, api, org, ticket, discharge, actions)


def _show_logins(run: Run) -> None:
    logins = Logins.of_environ(run.environ)
    found: list[Login] = []
    for org in logins.orgs():
        try:
            login = logins.load(org)
        except PetsemError as error:
            warn(sentence_of(error))
        else:
            found += [] if login is None else [login]
    now_ms = run.clock.unix_ms()
    rows = [
        (
            each.org,
            each.user,
            ", ".join(each.nodes),
            _state(each, now_ms),
            rfc3339(each.token_until_ms),
            rfc3339(each.discharge_until_ms),
        )
        for each in found
    ]
    columns = ("ORG", "USER", "NODES", "STATE", "ENDS", "DISCHARGED UNTIL")
    show(run, {"logins": [_told(each) for each in found]}, Table(columns, rows))
    if not found and not run.is_json:
        note("nobody is signed in here; sign in with: petsem login ORG")


def _state(login: Login, now_ms: int) -> str:
    if login.token_life.is_over(now_ms):
        return "over"
    if login.session is not None:
        return "renews itself"
    return "over" if login.discharge_life.is_over(now_ms) else "good"


def _told(login: Login) -> dict[str, object]:
    return {
        "org": login.org,
        "user": login.user,
        "token_id": login.token_id,
        "nodes": list(login.nodes),
        "expires_at": rfc3339(login.token_until_ms),
        "discharge_expires_at": rfc3339(login.discharge_until_ms),
        "renews": login.session is not None,
    }


def _actions(given: tuple[str, ...]) -> list[str] | None:
    each = [value.strip() for text in given for value in text.split(",")]
    asked = [check_attribute(value, "an action") for value in dict.fromkeys(each)]
    # What this org allows the node says after the sign-in; this no org can, so nobody need sign in.
    if not all(map(within_org_authority, asked)):
        raise invalid(
            "people of an org can do nothing of orgs: and nodes:, and of apps: only apps:admin; "
            "leave the rest out of --action"
        )
    return asked or None
