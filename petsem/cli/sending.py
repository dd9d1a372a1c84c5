"""One exchange with whichever node connects first.

Guarantees: the token sent is narrowed to the call, but for one that ends itself, and none is sent
where there is no caller; the next address is tried only when the last one could not have received
anything; an answer is bounded before it is decoded. Redirects and the environment's proxies are
not followed: a token belongs to the address that was named and to nobody else.

Does not try again later; `api` does.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import httpx

import petsem
from petsem.cli.addresses import Nodes
from petsem.cli.narrowing import Scope, bound, clock_offset_ms, narrow
from petsem.cli.replies import NodeError, error_of, not_understood, seconds_of
from petsem.clock import Clock
from petsem.errors import Code, PetsemError, invalid

CONNECT_S: Final = 5.0
ANSWER_S: Final = 60.0
ANSWER_MAX_BYTES: Final = 16 * 1024 * 1024
CLOCKS_AGREE_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Call:
    """What to send. `key` is the `Idempotency-Key` of a change, None if nothing changes. `whole`:
    the token is not narrowed."""

    method: str
    path: str
    scope: Scope
    params: Mapping[str, str | int] | None = None
    content: bytes | None = field(default=None, repr=False)
    key: str | None = None
    whole: bool = False

    def headers(self) -> dict[str, str]:
        """The headers of this call, the token apart."""
        headers = {}
        if self.content is not None:
            headers["content-type"] = "application/json"
        if self.key is not None:
            headers["idempotency-key"] = self.key
        return headers


class Caller(Protocol):
    """Whose token is sent."""

    def token(self, org: str | None) -> str:
        """The token for a call about `org`."""
        ...

    def renew(self, error: PetsemError) -> None:
        """Get a newer one, since this one was refused with `error`; raises if there is none."""
        ...


class Sender:
    """Connections to the nodes on behalf of one caller, or of nobody."""

    def __init__(
        self,
        nodes: Nodes,
        caller: Caller | None,
        clock: Clock,
        transport: httpx.BaseTransport | None,
    ) -> None:
        self._urls = nodes.urls
        self._caller = caller
        self._clock = clock
        self._offset_ms = 0
        self._first = 0
        self._renewed = False
        self.retry_after_s: int | None = None
        """The pause that the node asked for with its last 2xx answer."""
        secure = any(url.startswith("https:") for url in nodes.urls)
        self._client = httpx.Client(
            # Without https nothing is verified, and a context that trusts nobody costs nothing.
            verify=nodes.tls() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            transport=transport,
            trust_env=False,
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            headers={
                "user-agent": f"petsem/{petsem.__version__}",
                # Compressed, a small answer could become a large one.
                "accept-encoding": "identity",
            },
        )

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    @property
    def answered_by(self) -> str:
        """The address that gave the last 2xx answer."""
        return self._urls[self._first]

    def exchange(self, call: Call) -> bytes:
        """The body of a 2xx answer; PetsemError for anything else.

        A token that is refused for its age is renewed, and the call sent again, once.
        """
        try:
            return self._in_time(call)
        except NodeError as error:
            refused = error.code is Code.UNAUTHENTICATED or error.detail.reason == "REVOKED"
            if not refused or self._caller is None or self._renewed:
                raise
            self._renewed = True
            self._caller.renew(error)
        return self._in_time(call)

    def _in_time(self, call: Call) -> bytes:
        """The answer by the node's clock.

        If the token's minute was over before it arrived, our clock is wrong: the node's time is
        learnt, and the call sent once more.
        """
        try:
            return self._exchange(call)
        except NodeError as error:
            if error.detail.reason != "EXPIRED" or error.server_time_ms is None or call.whole:
                raise
            offset_ms = clock_offset_ms(error.server_time_ms, self._clock.unix_ms())
            if abs(offset_ms - self._offset_ms) < CLOCKS_AGREE_MS:
                raise
            self._offset_ms = offset_ms
        return self._exchange(call)

    def _exchange(self, call: Call) -> bytes:
        headers = {**call.headers(), **self._credentials(call)}
        tls_failed = False
        for turn in range(len(self._urls)):
            at = (self._first + turn) % len(self._urls)
            try:
                return self._ask(at, call, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                tls_failed = _is_tls(error)
            except httpx.TransportError as error:
                https = self._urls[at].startswith("https:")
                raise _lost(error, call, https=https) from error
            except httpx.InvalidURL as error:
                raise invalid(f"address {at + 1} of PETSEM_ADDR is not a usable URL") from error
        raise _nobody(tls_failed=tls_failed)

    def _credentials(self, call: Call) -> dict[str, str]:
        if self._caller is None:
            return {}
        whole = self._caller.token(call.scope.org)
        if call.whole:
            token = bound(whole)
        else:
            token = narrow(whole, call.scope, self._clock.unix_ms() + self._offset_ms)
        return {"authorization": f"Bearer {token}"}

    def _ask(self, at: int, call: Call, headers: Mapping[str, str]) -> bytes:
        body = bytearray()
        with self._client.stream(
            call.method,
            self._urls[at] + call.path,
            params=call.params,
            content=call.content,
            headers=headers,
        ) as answer:
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise not_understood()
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > ANSWER_MAX_BYTES:
                    raise PetsemError(Code.INTERNAL, "the answer is larger than any of Petsem's")
        if answer.is_success:
            self._first = at
            self.retry_after_s = seconds_of(answer.headers.get("retry-after"))
            return bytes(body)
        error = error_of(answer.status_code, answer.headers, bytes(body))
        # A node that cannot answer now is asked last the next time.
        self._first = at + 1 if error.code is Code.UNAVAILABLE else at
        raise error


def _is_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _nobody(*, tls_failed: bool) -> PetsemError:
    if tls_failed:
        return PetsemError(
            Code.UNAVAILABLE,
            "the node's TLS certificate was not accepted, or it speaks no TLS; check PETSEM_CA "
            "and the scheme in PETSEM_ADDR",
        )
    return PetsemError(
        Code.UNAVAILABLE,
        "no node answered at PETSEM_ADDR; check the address and that the node is running",
    )


def _lost(error: httpx.TransportError, call: Call, *, https: bool) -> PetsemError:
    late = isinstance(error, httpx.TimeoutException)
    # With TLS 1.3 that is how a node says that it does not like our certificate.
    hint = "" if late or not https else " (or it wants another PETSEM_CERT and PETSEM_KEY)"
    if call.key is None:
        return PetsemError(
            Code.UNAVAILABLE, f"the connection to the node was lost{hint}; try again"
        )
    why = "in time" if late else f"before the connection ended{hint}"
    return PetsemError(
        Code.INDETERMINATE,
        f"the node did not answer {why}, so it is not known whether it was done; look before "
        "trying again",
    )
