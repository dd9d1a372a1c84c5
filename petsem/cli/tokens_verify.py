"""`petsem token verify` and `can`: asking a node what a token allows.

Guarantees: the answer is the node's, and it decides the exit code: 0 allowed, 3 refused. `can` is
the dry run, whose answer says `would_allow`, so that it is never taken for `verify`'s. Where the
token that asks is itself refused, the sentence says that this is no verdict on the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import click
import msgspec

from petsem.cli import exits
from petsem.cli.api import Api, connect
from petsem.cli.caller import Caller
from petsem.cli.credentials import token_in_file
from petsem.cli.narrowing import Scope, bound
from petsem.cli.options import AppRef, pass_run, remote
from petsem.cli.output import show
from petsem.cli.run import Run
from petsem.cli.tokens_offline import token_file_option
from petsem.cli.usage import Command
from petsem.errors import Code, PetsemError, invalid
from petsem.limits import ACCESS_ATTRIBUTES_MAX
from petsem.model import check_attribute, check_org
from petsem.tokens.reasons import Reason
from petsem.wire.http import CanVerdict, Verdict, Verify

_OF_THE_ASKER: Final = frozenset({Code.UNAUTHENTICATED, Code.DENIED})


def _no_verdict(error: PetsemError) -> PetsemError:
    """`error`, which a node answered to the token that asks, told apart from what it was to say of
    the token that is asked about; often they are the same."""
    if (error.detail.caveat or "").startswith("action "):
        lacks = f"lacks the action tokens:verify ({error.detail.caveat})"
        message = (
            f"no verdict: the token that asks {lacks}; ask with one that has it, and give the "
            "other with --token-file"
        )
    else:
        message = f"no verdict: the token that asks was refused itself: {error.message}"
    return PetsemError(error.code, message, replace(error.detail, caveat=None))


def _asking(name: str, kind: type[Verdict] | type[CanVerdict], about: str) -> click.Command:
    def ask(api: Api, body: Verify, scope: Scope) -> Verdict | CanVerdict:
        try:
            return api.ask(f"/v1/tokens/{name}", kind, scope, body)
        except PetsemError as error:
            if error.code in _OF_THE_ASKER:
                raise _no_verdict(error) from error
            raise

    @click.command(name, cls=Command, help=about)
    @click.argument("action", metavar="ACTION")
    @click.option("-a", "--app", metavar="ORG/APP", help="Of this app.")
    @click.option("--org", metavar="ORG", help="Of this org.")
    @click.option("--machine", metavar="ID", help="For this machine.")
    @click.option(
        "--attribute",
        "attributes",
        metavar="KEY=VALUE",
        multiple=True,
        help="Any other attribute of the access, such as region=ams.",
    )
    @click.option(
        "--max-staleness",
        type=click.IntRange(0, 86_400),
        metavar="SECONDS",
        help="How long ago the node may have heard from the leader.",
    )
    @token_file_option
    @remote
    @pass_run
    def command(
        run: Run,
        action: str,
        app: str | None,
        org: str | None,
        machine: str | None,
        attributes: tuple[str, ...],
        max_staleness: int | None,
        token_file: str | None,
    ) -> None:
        access = _access(action, app, org, machine, attributes)
        caller = Caller(run)
        kept = (
            caller.token(access["org"])
            if token_file is None
            else token_in_file(token_file, "--token-file")
        )
        scope = Scope(("tokens:verify",), access["org"])
        with connect(run, caller=caller) as api:
            # A token about itself travels whole, or the node would judge the narrowed copy.
            answer = ask(api, Verify(bound(kept), access, max_staleness), scope)
            if answer.reason == Reason.DISCHARGE_INVALID and token_file is not None:
                # Its discharges are bound already, perhaps: it was taken from where it was sent.
                answer = ask(api, Verify(kept, access, max_staleness), scope)
        if isinstance(answer, Verdict):
            # For verifiers that keep answers, and as secret as the token: not for a terminal.
            answer = msgspec.structs.replace(answer, discharge_signatures=msgspec.UNSET)
        show(run, answer, line=_sentence(answer))
        if not _allows(answer):
            raise click.exceptions.Exit(exits.REFUSED)

    return command


verify_command = _asking(
    "verify", Verdict, "Whether a token allows an action now: exit code 0 if it does, 3 if not."
)
can_command = _asking(
    "can", CanVerdict, "Whether a token would allow an action: a dry run, for people."
)


def _access(
    action: str, app: str | None, org: str | None, machine: str | None, extra: tuple[str, ...]
) -> dict[str, str]:
    access = {"action": check_attribute(action, "an action")}
    if app is not None:
        ref = AppRef.parse(app)
        if org not in (None, ref.org):
            raise invalid("--org and --app name different orgs; give one of them")
        org, access["app"] = ref.org, ref.app
    if org is None:
        raise invalid("name the org, with --org ORG or -a ORG/APP")
    access["org"] = check_org(org)
    if machine is not None:
        access["machine"] = check_attribute(machine, "a machine")
    for number, pair in enumerate(extra, 1):
        key, equals, value = pair.partition("=")
        if not equals or key in access:
            raise invalid(f"attribute {number} is not KEY=VALUE, or its key is given already")
        access[check_attribute(key, "a key")] = check_attribute(value, "an attribute")
    if len(access) > ACCESS_ATTRIBUTES_MAX:
        raise invalid(f"an access has at most {ACCESS_ATTRIBUTES_MAX} attributes")
    return access


def _allows(answer: Verdict | CanVerdict) -> bool:
    return answer.allowed if isinstance(answer, Verdict) else answer.would_allow


def _sentence(answer: Verdict | CanVerdict) -> str:
    certain = isinstance(answer, Verdict)
    if _allows(answer):
        verb = "allowed" if certain else "would be allowed"
        return f"{verb}: {answer.subject or '-'}, until {answer.expires_at or '-'}"
    verb = "refused" if certain else "would be refused"
    message = answer.message or ""
    # Most messages quote the caveat themselves.
    unsaid = answer.caveat and answer.caveat not in message
    caveat = f" (caveat: {answer.caveat})" if unsaid else ""
    return f"{verb}, {answer.reason or 'unknown'}: {message}{caveat}"
