"""`petsem token exchange` and `petsem boot allow`: something narrower, for one machine.

Guarantees: what is made goes to stdout, alone, or into a new file of mode 0600, and nowhere else;
no token is taken from argv (a ticket may be: it is of no use without the org's key). An exchange is
narrowed by org and time only, because a new token inherits its asker's caveats.
"""

from __future__ import annotations

from pathlib import Path

import click

from petsem import base64url
from petsem.cli.api import connect
from petsem.cli.caveat_options import life_s
from petsem.cli.credentials import token_in_file
from petsem.cli.narrowing import Scope
from petsem.cli.options import AppRef, app_option, pass_run, remote
from petsem.cli.output import note, show
from petsem.cli.run import Run
from petsem.cli.usage import Command
from petsem.errors import conflict, invalid
from petsem.model import check_attribute, is_host_key
from petsem.server.files import present, read_bounded, write_new
from petsem.tokens.text import PREFIX, parse_token
from petsem.wire.http import Boot, BootAllowed, Exchange, Exchanged

_CERTIFICATE_MAX_BYTES = 64 * 1024
_LIFE_S = range(60, 3_601)

_machine = click.option("--machine", metavar="ID", required=True, help="The machine.")
_out = click.option(
    "--out", metavar="FILE", help="Write it to a new file of mode 0600, not to stdout."
)


@click.command("exchange", cls=Command)
@app_option
@_machine
@click.option(
    "--action",
    "actions",
    metavar="ACTION[,…]",
    multiple=True,
    required=True,
    help="What the new token may do, such as secrets:read.",
)
@click.option("--host-key", metavar="HEX", help="SHA-256 of the host's public key.")
@click.option("--host-cert", metavar="FILE", help="The host's certificate, for its key.")
@click.option("--ttl", metavar="60s…1h", help="How long it lives (default: 15m).")
@click.option("--once", is_flag=True, help="It cannot be renewed.")
@_out
@remote
@pass_run
def exchange_command(
    run: Run,
    app: AppRef,
    machine: str,
    actions: tuple[str, ...],
    host_key: str | None,
    host_cert: str | None,
    ttl: str | None,
    once: bool,
    out: str | None,
) -> None:
    """Exchange a token for a service token of one app, one machine and one host's TLS key.

    Without --host-key and --host-cert the key is that of PETSEM_CERT, which the node is shown. A
    service token is renewed by exchanging it, with the host's certificate.
    """
    if host_key is not None and host_cert is not None:
        raise invalid("give --host-key or --host-cert, not both")
    if host_key is None and host_cert is None and not run.environ.get("PETSEM_CERT"):
        raise invalid(
            "name the host's key, with --host-cert FILE or --host-key HEX, or set PETSEM_CERT to "
            "its certificate"
        )
    if host_key is not None and not is_host_key(host_key):
        raise invalid(
            "--host-key is 64 lower-case hexadecimal digits; --host-cert takes it from the "
            "certificate"
        )
    _require_new(out)
    given = [check_attribute(each.strip(), "an action") for a in actions for each in a.split(",")]
    body = Exchange(
        org=app.org,
        app=app.app,
        machine=check_attribute(machine, "a machine"),
        host_key=host_key if host_cert is None else _key_of(host_cert),
        actions=list(dict.fromkeys(given)),
        ttl_s=_life_s(ttl, 900),
        renewable=not once,
    )
    with connect(run) as api:
        made = api.change("POST", "/v1/tokens/exchange", Exchanged, Scope((), app.org), body=body)
    more = "" if made.renew_until is None else f", to be renewed until {made.renew_until}"
    about = f"token {made.id}, good until {made.expires_at}{more}"
    if out is not None:
        write_new(Path(out), f"{made.token}\n".encode("ascii"))
        told = {"id": made.id, "expires_at": made.expires_at, "renew_until": made.renew_until}
        show(run, {**told, "file": out}, line=f"{about}, is in {out}")
        return
    show(run, made, line=made.token)
    if not run.is_json:
        note(about)


@click.command("allow", cls=Command)
@app_option
@_machine
@click.option("--ticket", metavar="HEX", help="Its ticket, as inspect -o json shows it.")
@click.option("--host-token-file", metavar="FILE|-", help="The host's token, to take it from.")
@click.option("--ttl", metavar="60s…1h", help="How long the host may read (default: 10m).")
@_out
@remote
@pass_run
def allow_command(
    run: Run,
    app: AppRef,
    machine: str,
    ticket: str | None,
    host_token_file: str | None,
    ttl: str | None,
    out: str | None,
) -> None:
    """Let a machine's host read the app's secrets, in an org whose boots need two keys.

    Prints the discharge, which the host appends to its token after a comma. The host's ticket is
    shown by 'petsem token inspect -o json' on the host; the token itself need not leave it.
    """
    if (ticket is None) == (host_token_file is None):
        raise invalid("name the host's token: with --ticket or --host-token-file")
    _require_new(out)
    body = Boot(
        app=app.app,
        machine=check_attribute(machine, "a machine"),
        ticket=base64url.encode(
            _ticket_in(host_token_file or "") if ticket is None else _read(ticket)
        ),
        ttl_s=_life_s(ttl, 600),
    )
    with connect(run) as api:
        scope = Scope(("machines:boot",), app.org, app.app)
        allowed = api.change("POST", f"/v1/orgs/{app.org}/boots", BootAllowed, scope, body=body)
    about = f"grant {allowed.grant}, good until {allowed.expires_at}"
    if out is not None:
        write_new(Path(out), f"{allowed.discharge}\n".encode("ascii"))
        told = {"grant": allowed.grant, "expires_at": allowed.expires_at, "file": out}
        show(run, told, line=f"{about}, is in {out}")
        return
    show(run, allowed, line=allowed.discharge)
    if not run.is_json:
        note(about)


def _require_new(out: str | None) -> None:
    """Refuse a file that is there already before anything is made."""
    if out is not None and present(Path(out)):
        raise conflict(f"{out} exists already; move it away or choose another name")


def _life_s(ttl: str | None, default_s: int) -> int:
    seconds = default_s if ttl is None else life_s(ttl)
    if seconds not in _LIFE_S:
        raise invalid("--ttl is between 60s and 1h")
    return seconds


def _key_of(path: str) -> str:
    # Imported here: few commands need what reads certificates.
    from petsem.server.host_key import of_certificate

    found = of_certificate(read_bounded(Path(path), _CERTIFICATE_MAX_BYTES))
    if found is None:
        raise invalid("--host-cert holds no certificate in PEM or DER")
    return found


def _read(ticket: str) -> bytes:
    if ticket.startswith(PREFIX):
        raise invalid(
            "that is a token, which now stands in the shell's history; revoke it, and give one "
            "with --host-token-file"
        )
    try:
        return bytes.fromhex(ticket)
    except ValueError:
        raise invalid("--ticket is hexadecimal digits, as inspect -o json shows them") from None


def _ticket_in(path: str) -> bytes:
    """The ticket of the third-party caveat that a host's token was minted with."""
    root = parse_token(token_in_file(path, "--host-token-file")).root
    tickets = [caveat.cid for caveat in root.caveats if caveat.vid is not None]
    if not tickets:
        raise invalid("that token has no ticket; hosts have had one since two_key was set")
    return tickets[0]
