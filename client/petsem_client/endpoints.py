"""Where the nodes are, and in which order to ask them.

Guarantees: an `Endpoint` is a host and port that gRPC cannot read as anything else (no scheme, no
path, no socket file), and a list of them is asked in the order in which it was written, except
that one which failed rests at the end of the queue for a while. It opens no connection and reads
no clock; time is an argument.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from petsem.errors import PetsemError, invalid

ENDPOINTS_MAX: Final = 32
REST_MIN_S: Final = 30.0
"""How long a node that failed is asked last, the first time; doubled with each failure after."""
REST_MAX_S: Final = 600.0
PROBE_S: Final = 5.0
"""While one call finds out whether a rested node is back, the others keep asking it last."""

_ENDPOINT = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9.-]{1,253})):([0-9]{1,5})", re.ASCII
)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_NUMERIC = re.compile(r"[0-9.]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node's gRPC address. `str` of it is `HOST:PORT` or `[IPv6]:PORT`."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """The address as gRPC's resolver wants it, with the scheme spelled out."""
        scheme = "ipv6:" if ":" in self.host else "ipv4:" if _is_address(self.host) else "dns:///"
        return f"{scheme}{self}"

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent there stays on this machine."""
        if not _is_address(self.host):
            return self.host == "localhost"
        address = ipaddress.ip_address(self.host)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def parse_endpoints(texts: Sequence[str]) -> tuple[Endpoint, ...]:
    """The endpoints that `texts` name, in order, each once; `invalid` for any other spelling."""
    if isinstance(texts, str):
        raise invalid("endpoints is a list of HOST:PORT, not one text")
    found = tuple(dict.fromkeys(_parse(text, at) for at, text in enumerate(texts, 1)))
    if not 1 <= len(found) <= ENDPOINTS_MAX:
        raise invalid(f"give 1 to {ENDPOINTS_MAX} endpoints, each HOST:PORT or [IPv6]:PORT")
    return found


def _parse(text: str, at: int) -> Endpoint:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise _bad(at)
    v6, host, port = match.group(1), match.group(2), int(match.group(3))
    if not 1 <= port <= 65_535:
        raise _bad(at)
    if v6 is not None:
        try:
            return Endpoint(str(ipaddress.IPv6Address(v6)), port)
        except ValueError:
            raise _bad(at) from None
    # Digits and dots are an address or a mistake, never a name for somebody's DNS to answer.
    if _NUMERIC.fullmatch(host):
        if not _is_address(host):
            raise _bad(at)
    elif not all(_HOST.fullmatch(label) for label in host.split(".")):
        raise _bad(at)
    return Endpoint(host.lower(), port)


def _bad(at: int) -> PetsemError:
    # The text itself is not quoted: a token pasted into the wrong place would end in a log.
    return invalid(f"endpoint {at} is not HOST:PORT or [IPv6]:PORT, such as 127.0.0.1:7401")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Rotation:
    """The order in which a reader's calls ask its nodes.

    The first of the list is home. One that fails rests, so that the next call starts at the last
    that worked; when its rest is over one call tries it again, and is at home there if it answers.
    """

    def __init__(self, endpoints: Sequence[Endpoint], jitter: random.Random) -> None:
        self._endpoints = tuple(endpoints)
        self._jitter = jitter
        self._failures = dict.fromkeys(self._endpoints, 0)
        self._asleep_until_s = dict.fromkeys(self._endpoints, float("-inf"))

    @property
    def size(self) -> int:
        """How many endpoints there are."""
        return len(self._endpoints)

    def order(self, now_s: float) -> list[Endpoint]:
        """Every endpoint: the rested in the list's order, then the resting, first to wake first."""
        awake = [e for e in self._endpoints if self._asleep_until_s[e] <= now_s]
        asleep = [e for e in self._endpoints if self._asleep_until_s[e] > now_s]
        asleep.sort(key=self._asleep_until_s.__getitem__)
        for endpoint in awake:
            if self._failures[endpoint]:
                self._asleep_until_s[endpoint] = now_s + PROBE_S
        return awake + asleep

    def worked(self, endpoint: Endpoint) -> None:
        """`endpoint` answered: it rests no longer."""
        self._failures[endpoint] = 0
        self._asleep_until_s[endpoint] = float("-inf")

    def failed(self, endpoint: Endpoint, now_s: float) -> None:
        """`endpoint` could not answer: ask it last for a while."""
        failures = self._failures[endpoint]
        # A hundred calls that met one outage are one failure, not a hundred doublings.
        if failures and self._asleep_until_s[endpoint] > now_s + PROBE_S:
            return
        rest_s = min(REST_MAX_S, REST_MIN_S * 2 ** min(failures, 10))
        self._failures[endpoint] = failures + 1
        self._asleep_until_s[endpoint] = now_s + rest_s * self._jitter.uniform(0.5, 1.0)
