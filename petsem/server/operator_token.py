"""The operator token that a person on the node's own machine gets: at init, and on recovery.

Guarantees: the token counts like any other, because its row is in the caller's transaction: of the
cluster key, kind operator, limited by nothing but time. It needs the `cluster` KEK and nothing
else that is secret. It does not commit, and does not say where the text is kept.
"""

from __future__ import annotations

from typing import Final, Literal

import apsw
import msgspec

from petsem.clock import rfc3339
from petsem.crypto.envelope import DamagedEnvelope, Record
from petsem.crypto.keys import random_id
from petsem.errors import Code, PetsemError
from petsem.model import Kind, Position
from petsem.server.keys import CLUSTER, Keys
from petsem.server.store import tokens
from petsem.tokens.identifier import Identifier
from petsem.tokens.mint import mint
from petsem.tokens.text import encode_token

LIFE_S: Final = 24 * 3600


def issue_operator_token(
    db: apsw.Connection,
    keys: Keys,
    cluster_id: bytes,
    position: Position,
    now_ms: int,
    life_s: int = LIFE_S,
    *,
    created_by: Literal["init", "recover"],
) -> str:
    """A new operator token as text, issued in the open transaction that will be at `position`.

    `unavailable` if this node lacks the `cluster` KEK, `corrupt` if the cluster's root key is
    damaged.
    """
    root_key, envelope = tokens.primary_root_key(db, None)
    try:
        secret = keys.open(db, CLUSTER, CLUSTER.place(Record.ROOT_KEY, root_key), envelope)
    except DamagedEnvelope:
        raise PetsemError(
            Code.CORRUPT,
            "the cluster's root key is damaged; restore the data directory from a backup",
        ) from None
    # Whole seconds, so that the caveat and the row end in the same instant.
    expires_s = now_ms // 1000 + life_s
    caveats = [f"time < {rfc3339(expires_s * 1000)}"]
    nonce = random_id()
    identifier = Identifier(
        cluster_id, Kind.OPERATOR, root_key, nonce, position.epoch, position.txid
    )
    text = encode_token(mint(secret, identifier, caveats))
    row = tokens.TokenRow(
        nonce=nonce,
        org=None,
        root_key=root_key,
        kind=Kind.OPERATOR,
        subject=f"{Kind.OPERATOR.text}:{identifier.token_id}",
        parent=None,
        depth=0,
        caveats=msgspec.json.encode(caveats).decode(),
        label=None,
        created_at=now_ms,
        created_by=created_by,
        expires_at=expires_s * 1000,
        epoch=position.epoch,
        txid=position.txid,
    )
    tokens.insert(db, row)
    return text
