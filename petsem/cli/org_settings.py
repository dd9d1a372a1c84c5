"""`petsem org settings`: an org's settings, shown or changed.

Guarantees: nothing that was typed is repeated; what `sso` is set to, a secret with it, comes
from a file or stdin and never from argv.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import click
import msgspec

from petsem.cli.api import connect
from petsem.cli.durability import parse_durability, spell
from petsem.cli.importing import read_file
from petsem.cli.narrowing import Scope
from petsem.cli.options import org_argument, pass_run, remote
from petsem.cli.output import Cell, Table, show
from petsem.cli.run import Run
from petsem.cli.streams import read_stdin
from petsem.cli.usage import Command
from petsem.errors import invalid
from petsem.server.api.explain import explain
from petsem.wire.http import Settings, SettingsPatch, Sso, SsoInfo

_SSO_MAX_BYTES: Final = 64 * 1024
_SETTINGS: Final = (
    "the settings are durability=local|replicated=K, boot_max_staleness_s=SECONDS, "
    "sso=@FILE|-, and two_key=on|off"
)
_WHOLE: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


@click.command("settings", cls=Command)
@org_argument
@click.argument("pairs", metavar="[KEY=VALUE]…", nargs=-1)
@remote
@pass_run
def settings_command(run: Run, org: str, pairs: tuple[str, ...]) -> None:
    """Show an org's settings, or change some; KEY=default takes a change back.

    `sso` is a JSON object, read from a file (sso=@FILE) or stdin (sso=-): issuer, client_id,
    perhaps client_secret, and domains or groups. Through it an org's people sign in.
    """
    patch = _patch(pairs)
    scope = Scope(("orgs:admin",), org)
    path = f"/v1/orgs/{org}/settings"
    with connect(run) as api:
        if patch is None:
            settings = api.get(path, Settings, scope)
        else:
            settings = api.change("PATCH", path, Settings, scope, body=patch)
    rows: list[tuple[Cell, ...]] = [
        ("durability", spell(settings.durability)),
        ("boot_max_staleness_s", settings.boot_max_staleness_s),
        ("sso", _spell_sso(settings.sso)),
        ("two_key", "on" if settings.two_key else "off"),
    ]
    show(run, settings, Table(("SETTING", "VALUE"), rows))


def _patch(pairs: tuple[str, ...]) -> SettingsPatch | None:
    if not pairs:
        return None
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in _READ or key in given:
            raise invalid(f"each setting is given once, as KEY=VALUE; {_SETTINGS}")
        given[key] = None if value == "default" else _READ[key](value)
    return SettingsPatch(**given)


def _seconds(value: str) -> int:
    if not _WHOLE.fullmatch(value):
        raise invalid("boot_max_staleness_s is a whole number of seconds, or 'default'")
    return int(value)


def _two_key(value: str) -> bool:
    if value not in ("on", "off"):
        raise invalid("two_key is on or off")
    return value == "on"


def _sso(value: str) -> Sso:
    if value == "-":
        data = read_stdin(_SSO_MAX_BYTES + 1)
    elif value.startswith("@"):
        data = read_file(value[1:], _SSO_MAX_BYTES, "the file for sso")
    else:
        raise invalid("sso is read from a file or stdin: sso=@FILE or sso=-, or 'default' for off")
    if len(data) > _SSO_MAX_BYTES:
        raise invalid(f"what sso is set to is at most {_SSO_MAX_BYTES} bytes long")
    try:
        return msgspec.json.decode(data, type=Sso)
    except msgspec.ValidationError as error:
        wrong = explain(error, Sso, "the object")
        raise invalid(f"in what sso is set to, {wrong}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        # The library's sentence may quote what was read.
        pass
    raise invalid(
        "sso is a JSON object with issuer, client_id, and domains or groups; see docs/tokens.md"
    )


_READ: Final[dict[str, Callable[[str], Any]]] = {
    "durability": parse_durability,
    "boot_max_staleness_s": _seconds,
    "sso": _sso,
    "two_key": _two_key,
}


def _spell_sso(sso: SsoInfo | None) -> str:
    if sso is None:
        return "off"
    whose = ", ".join([*sso.domains, *(f"group {group}" for group in sso.groups)])
    return f"{sso.issuer} as {sso.client_id}, for {whose}"
