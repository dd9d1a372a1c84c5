"""What a token's identifier says: whose it is, which key signed it, and since when.

Guarantees: 62 bytes with one spelling; `parse` refuses any other. Byte table:
`docs/formats/token.md`. It is public and, until the signature is checked, only a claim.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from petsem.model import Kind
from petsem.tokens.reasons import malformed

IDENTIFIER_BYTES: Final = 62
_FORMAT: Final = 1
_LAYOUT = struct.Struct(">B16sB16s16sIQ")
_KINDS: Final = {int(kind): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Identifier:
    """A token's identity. The nonce is its id; epoch and TXID are of the minting transaction."""

    cluster_id: bytes
    kind: Kind
    root_key_id: bytes
    nonce: bytes
    epoch: int
    txid: int

    @property
    def token_id(self) -> str:
        """The nonce as people and routes write it: 32 hexadecimal digits."""
        return self.nonce.hex()

    def encode(self) -> bytes:
        """The 62 bytes."""
        assert len(self.cluster_id) == len(self.root_key_id) == len(self.nonce) == 16
        return _LAYOUT.pack(
            _FORMAT,
            self.cluster_id,
            self.kind,
            self.root_key_id,
            self.nonce,
            self.epoch,
            self.txid,
        )

    @classmethod
    def parse(cls, data: bytes) -> Identifier:
        """The identifier that `data` spells; TokenRefused MALFORMED for anything else."""
        if len(data) != IDENTIFIER_BYTES:
            raise malformed("the token's identifier is not one of Petsem's")
        form, cluster_id, number, root_key_id, nonce, epoch, txid = _LAYOUT.unpack(data)
        kind = _KINDS.get(number)
        if form != _FORMAT or kind is None:
            raise malformed("the token's identifier is of a format or kind not known here")
        return cls(cluster_id, kind, root_key_id, nonce, epoch, txid)
