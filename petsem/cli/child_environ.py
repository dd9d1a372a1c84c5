"""Secrets as a child's environment: which fit, and which must not.

Guarantees: nothing goes in that a shell cannot hold, that has a NUL byte, that the child would
take for Petsem's own, or that makes a loader or an interpreter run other code, unless that name
was allowed; what does not fit is named and never dropped in silence. Pure: no process, no files.

The list of names that need `--allow-name` has what turns "may write a secret" into "may run code
in the app": variables that a loader, shell or language runtime obeys before the program's first
line. `ENV` is not in it: only interactive POSIX shells read it, and many apps use the name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from petsem.cli.names import check_typed_name
from petsem.counted import counted
from petsem.errors import PetsemError, invalid

_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
OWN_PREFIX: Final = "PETSEM_"
_POWERFUL_PREFIXES: Final = (
    "LD_",
    "DYLD_",
    "BASH_",
    "PYTHON",
    "PERL",
    "RUBY",
    "GIT_",
    "NPM_CONFIG_",
    "npm_config_",
)
_POWERFUL: Final = frozenset(
    {
        "PATH",
        "IFS",
        "PS4",
        "SHELLOPTS",
        "BASHOPTS",
        "PROMPT_COMMAND",
        "NODE_OPTIONS",
        "NODE_PATH",
        "JAVA_TOOL_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "_JAVA_OPTIONS",
        "CLASSPATH",
        "PHPRC",
        "PHP_INI_SCAN_DIR",
        "LUA_INIT",
        "LUA_PATH",
        "LUA_CPATH",
        "ERL_FLAGS",
        "ERL_LIBS",
        "DOTNET_STARTUP_HOOKS",
        "GCONV_PATH",
        "GLIBC_TUNABLES",
        "LOCPATH",
        "MALLOC_TRACE",
        "OPENSSL_CONF",
        "OPENSSL_MODULES",
    }
)
_STRING_MAX_BYTES: Final = 128 * 1024
"""Linux's MAX_ARG_STRLEN: one `NAME=VALUE` with its final NUL."""
_MARGIN_BYTES: Final = 4096
"""For the program's path and what else the kernel puts beside the strings."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The variables that fit, and the secrets that do not, with why."""

    variables: dict[str, bytes]
    problems: dict[str, str]


def fit(secrets: Mapping[str, bytes], renames: Mapping[str, str], allowed: Collection[str]) -> Fit:
    """Place `secrets` under their own names or those in `renames`."""
    variables: dict[str, bytes] = {}
    problems: dict[str, str] = {}
    for name in sorted(secrets):
        variable = renames.get(name, name)
        problem = _problem(variable, secrets[name], allowed)
        if problem is None and variable in variables:
            problem = "its variable is taken by another secret"
        if problem is None:
            variables[variable] = secrets[name]
        else:
            problems[name] = problem
    return Fit(variables, problems)


def _problem(variable: str, value: bytes, allowed: Collection[str]) -> str | None:
    if not _SHELL_NAME.fullmatch(variable):
        return "no shell can hold its name"
    if variable.startswith(OWN_PREFIX):
        return "names with PETSEM_ are kept from the child"
    if is_powerful(variable) and variable not in allowed:
        return "its name makes programs run other code, so it needs --allow-name"
    if b"\0" in value:
        return "it has a NUL byte"
    return None


def is_powerful(variable: str) -> bool:
    """Whether loaders, shells or runtimes obey that variable."""
    return variable in _POWERFUL or variable.startswith(_POWERFUL_PREFIXES)


def misfits(problems: Mapping[str, str]) -> PetsemError:
    """The error that names every secret that does not fit."""
    listed = "; ".join(f"{name}: {why}" for name, why in problems.items())
    return invalid(
        f"{counted(len(problems), 'secret')} cannot go into an environment ({listed}); choose with "
        "--only, rename with --map NAME=VARIABLE, or leave them out with --skip-invalid"
    )


def parse_renames(pairs: Collection[str]) -> dict[str, str]:
    """`NAME=VARIABLE`, each name once."""
    renames: dict[str, str] = {}
    for number, pair in enumerate(pairs, 1):
        name, _, variable = pair.partition("=")
        if not _SHELL_NAME.fullmatch(variable) or name in renames:
            raise invalid(f"--map {number} is not NAME=VARIABLE, or its name is mapped already")
        renames[check_typed_name(name)] = variable
    return renames


def child_environ(
    inherited: Mapping[bytes, bytes], variables: Mapping[str, bytes]
) -> dict[bytes, bytes]:
    """What the child gets: what we have, without Petsem's own, and the secrets over it."""
    own = OWN_PREFIX.encode("ascii")
    kept = {name: value for name, value in inherited.items() if not name.startswith(own)}
    return kept | {name.encode("ascii"): value for name, value in variables.items()}


def check_size(
    arguments: Collection[bytes],
    environ: Mapping[bytes, bytes],
    variables: Mapping[str, bytes],
    most_bytes: int,
) -> None:
    """`invalid` if the kernel would refuse it, naming the largest secrets. Each string and the
    pointer to it count, as for execve(2)."""
    strings = [len(each) + 1 for each in arguments]
    strings += [len(name) + len(value) + 2 for name, value in environ.items()]
    total = sum(strings) + 8 * (len(strings) + 2) + _MARGIN_BYTES
    if total <= most_bytes and max(strings, default=0) <= _STRING_MAX_BYTES:
        return
    largest = sorted(variables, key=lambda name: len(variables[name]), reverse=True)[:3]
    raise invalid(
        f"arguments and environment have {total:,} bytes and the system takes {most_bytes:,}; "
        f"leave some out with --only, or use files (the largest: {', '.join(largest) or 'none'})"
    )
