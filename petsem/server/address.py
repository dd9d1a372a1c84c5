"""Where a door of a node listens, or is dialled.

Guarantees: what is parsed is an IP address or a host name, never digits that a resolver would make
an address of; an `Address` is written as `parse` reads it. It looks no name up, so that of names
only `localhost` is known to be this machine's own.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from petsem.errors import PetsemError, invalid

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", re.ASCII)
_PORT = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)
_ALL_DIGITS_AND_DOTS = re.compile(r"[0-9.]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: an IP address or a host name, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True only for what this machine alone can reach; a name other than localhost is not."""
        if self.host.lower() == "localhost":
            return True
        try:
            found = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
            return found.ipv4_mapped.is_loopback
        return found.is_loopback

    @classmethod
    def parse(cls, text: str) -> Address:
        """`HOST:PORT`, an IPv6 host in brackets; `invalid` for anything else."""
        host, colon, port = text.rpartition(":")
        if not colon or _PORT.fullmatch(port) is None or int(port) > 65_535:
            raise _not_an_address()
        try:
            if host.startswith("[") and host.endswith("]"):
                return cls(str(ipaddress.IPv6Address(host[1:-1])), int(port))
            if _ALL_DIGITS_AND_DOTS.fullmatch(host):
                return cls(str(ipaddress.IPv4Address(host)), int(port))
        except ValueError:
            raise _not_an_address() from None
        if _HOST_NAME.fullmatch(host) is None:
            raise _not_an_address()
        return cls(host, int(port))


def _not_an_address() -> PetsemError:
    return invalid("an address is HOST:PORT, such as 127.0.0.1:7400, [::1]:7400 or 0.0.0.0:7400")
