"""Calls to a node's HTTP API, repeated where that is safe.

Guarantees: a call is repeated at most a few times, with jittered pauses or the pause that the node
asked for, and only if it changes nothing or carries one `Idempotency-Key`, drawn once and kept
over all attempts: a change happens once, however often it has to be sent.

Does not know commands; those say what to send and what comes back.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from petsem.cli.addresses import Nodes
from petsem.cli.caller import Caller
from petsem.cli.narrowing import Scope
from petsem.cli.renewal import NotRenewed
from petsem.cli.replies import decode
from petsem.cli.run import Run
from petsem.errors import Code, PetsemError

if TYPE_CHECKING:
    from petsem.cli.sending import Call, Sender

Reply = TypeVar("Reply")
Params = Mapping[str, str | int]

ATTEMPTS_MAX: Final = 4
RETRY_FOR_S: Final = 30.0
RETRY_AFTER_MAX_S: Final = 30

_TRY_AGAIN = frozenset({Code.UNAVAILABLE, Code.LIMIT, Code.INDETERMINATE})


class Api:
    """A node's HTTP API for one caller."""

    def __init__(self, sender: Sender, nodes: Nodes) -> None:
        self._sender = sender
        self.nodes = nodes

    def get(
        self, path: str, reply: type[Reply], scope: Scope, params: Params | None = None
    ) -> Reply:
        """Read something."""
        return self._call("GET", path, reply, scope, params)

    def ask(self, path: str, reply: type[Reply], scope: Scope, body: msgspec.Struct) -> Reply:
        """POST a question, which changes nothing."""
        return self._call("POST", path, reply, scope, body=body)

    def change(
        self,
        method: str,
        path: str,
        reply: type[Reply],
        scope: Scope,
        *,
        body: msgspec.Struct | None = None,
        params: Params | None = None,
    ) -> Reply:
        """Change something, once."""
        key = secrets.token_hex(16)
        return self._call(method, path, reply, scope, params, body, key)

    def change_whole(self, method: str, path: str, reply: type[Reply], scope: Scope) -> Reply:
        """Change something with the token whole, and not again if it is not known whether that was
        done: what is sent is worth more than a narrowed copy."""
        from petsem.cli.sending import Call

        call = Call(method, path, scope, key=secrets.token_hex(16), whole=True)
        return decode(self._sender.exchange(call), reply)

    def _call(
        self,
        method: str,
        path: str,
        reply: type[Reply],
        scope: Scope,
        params: Params | None = None,
        body: msgspec.Struct | None = None,
        key: str | None = None,
    ) -> Reply:
        from petsem.cli.sending import Call

        content = None if body is None else msgspec.json.encode(body)
        try:
            answer = _with_patience(self._sender, Call(method, path, scope, params, content, key))
        except PetsemError as error:
            if scope.actions and (error.detail.caveat or "").startswith("action "):
                raise _naming_actions(error, scope.actions) from error
            raise
        return decode(answer, reply)


def _naming_actions(error: PetsemError, actions: tuple[str, ...]) -> PetsemError:
    """A refusal that says which actions the call takes, since a command's name need not tell."""
    takes = " and ".join(actions)
    return PetsemError(error.code, f"{error.message}; it takes {takes}", error.detail)


def _with_patience(sender: Sender, call: Call) -> bytes:
    import stamina

    for attempt in stamina.retry_context(
        on=_wait_before_next,
        attempts=ATTEMPTS_MAX,
        timeout=RETRY_FOR_S,
        wait_initial=0.25,
        wait_max=4.0,
        wait_jitter=0.5,
    ):
        with attempt:
            return sender.exchange(call)
    raise AssertionError("the last attempt returns or raises")


def _wait_before_next(error: Exception) -> bool | float:
    """Whether to try again, and after how many seconds if the node said so."""
    if not isinstance(error, PetsemError) or error.code not in _TRY_AGAIN:
        return False
    if isinstance(error, NotRenewed):
        return False
    after_s = error.detail.retry_after_s
    if after_s is None:
        return True
    if after_s > RETRY_AFTER_MAX_S:
        return False
    # Never sooner than asked, and not all of us at once.
    return after_s * random.uniform(1.0, 1.25)  # noqa: S311 - no secret depends on it


@contextmanager
def connect(
    run: Run, *, nodes: Nodes | None = None, caller: Caller | None = None, anonymous: bool = False
) -> Iterator[Api]:
    """The API of the nodes, and with the token, that the run's environment names, unless others
    are given; `anonymous` sends no token."""
    # httpx and stamina are imported late: they cost more time than everything else together, and
    # `--help`, shell completion and the offline commands need neither.
    import stamina.instrumentation

    from petsem.cli.sending import Sender

    # By default stamina writes a line for each retry; what comes of it in the end is enough.
    stamina.instrumentation.set_on_retry_hooks([])
    nodes = nodes or Nodes.of_environ(run.environ, insecure=run.insecure)
    caller = None if anonymous else caller or Caller(run)
    sender = Sender(nodes, caller, run.clock, run.transport)
    try:
        yield Api(sender, nodes)
        if caller is not None:
            caller.remark()
    finally:
        sender.close()
