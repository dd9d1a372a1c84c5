"""The text form of a join token: what a machine needs to become a node, and nothing more.

    petsem_join_ BODY . CHECK

BODY is unpadded base64url of a byte 1 (the format), the cluster's id (16 bytes), and four fields
of two bytes length and content: the addresses, the CA's certificate, the one-time certificate and
its private key, the last three in DER. CHECK is that of any token (`docs/formats/token.md`).

Guarantees: limits are checked before anything is decoded, and each token has one spelling. It
verifies no certificate and knows no time; `petsem.server.join` does. Byte table and vector:
`docs/formats/join-token.md`.
"""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass
from typing import Final

from petsem import base64url, limits
from petsem.errors import PetsemError
from petsem.secretbytes import SecretBytes
from petsem.server.address import Address
from petsem.tokens.text import check_of

PREFIX: Final = "petsem_join_"
FORMAT: Final = 1
ADDRESSES_MAX: Final = 4
_CLUSTER_ID_BYTES: Final = 16
_PEM = re.compile(
    rb"-----BEGIN (CERTIFICATE|PRIVATE KEY)-----\n([A-Za-z0-9+/=\n]+)-----END \1-----\n"
)
_LINE_CHARS: Final = 64


class JoinTokenError(ValueError):
    """Text that is no join token. `rule` says which rule it breaks; nothing of it is repeated."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"not a join token: {rule}")
        self.rule = rule


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token's parts; certificates and key in PEM."""

    cluster_id: bytes
    addresses: tuple[Address, ...]
    ca: bytes
    certificate: bytes
    key: SecretBytes

    def encode(self) -> str:
        """The token as text. Secret: whoever has it first becomes a node."""
        assert len(self.cluster_id) == _CLUSTER_ID_BYTES
        assert 0 < len(self.addresses) <= ADDRESSES_MAX
        fields = (
            ",".join(map(str, self.addresses)).encode("ascii"),
            _der(self.ca),
            _der(self.certificate),
            _der(self.key.reveal()),
        )
        body = b"".join(struct.pack(">H", len(field)) + field for field in fields)
        raw = bytes((FORMAT,)) + self.cluster_id + body
        head = PREFIX + base64url.encode(raw)
        text = f"{head}.{check_of(head)}"
        assert len(text) <= limits.JOIN_TOKEN_MAX_CHARS
        return text

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """The join token that `text` spells; JoinTokenError for anything else."""
        raw = _decode(text)
        if raw[:1] != bytes((FORMAT,)):
            raise JoinTokenError("format")
        cluster_id, rest = raw[1 : 1 + _CLUSTER_ID_BYTES], raw[1 + _CLUSTER_ID_BYTES :]
        fields = []
        for _ in range(4):
            size = int.from_bytes(rest[:2])
            field, rest = rest[2 : 2 + size], rest[2 + size :]
            if not field or len(field) != size:
                raise JoinTokenError("length")
            fields.append(field)
        if rest:
            raise JoinTokenError("trailing bytes")
        addresses, ca, certificate, key = fields
        return cls(
            cluster_id,
            _addresses(addresses),
            _pem("CERTIFICATE", ca),
            _pem("CERTIFICATE", certificate),
            SecretBytes(_pem("PRIVATE KEY", key)),
        )


def _decode(text: str) -> bytes:
    if len(text) > limits.JOIN_TOKEN_MAX_CHARS:
        raise JoinTokenError("size")
    if not (text.isascii() and text.startswith(PREFIX)):
        raise JoinTokenError("prefix")
    head, dot, check = text.rpartition(".")
    if not dot or check != check_of(head):
        raise JoinTokenError("truncated")
    raw = base64url.decode(head[len(PREFIX) :])
    if raw is None:
        raise JoinTokenError("base64")
    return raw


def _addresses(field: bytes) -> tuple[Address, ...]:
    try:
        texts = field.decode("ascii").split(",")
        found = tuple(map(Address.parse, texts))
    except (UnicodeDecodeError, PetsemError):
        raise JoinTokenError("address") from None
    if len(found) > ADDRESSES_MAX or [str(each) for each in found] != texts:
        raise JoinTokenError("address")
    return found


def _der(pem: bytes) -> bytes:
    match = _PEM.fullmatch(pem)
    assert match is not None, "PEM as this program writes it"
    return base64.b64decode(match[2])


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode("ascii")
    lines = [text[at : at + _LINE_CHARS] for at in range(0, len(text), _LINE_CHARS)]
    return "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", "")).encode()
