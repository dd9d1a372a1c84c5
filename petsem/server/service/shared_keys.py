"""What an org shares with those who discharge its tokens' third-party caveats, sealed in its rows.

Guarantees: a key is made inside the transaction that first needs it, and there is one for each use;
who may read it is the caller's to know. Source of the uses: `root_keys.use` in the schema.
"""

from __future__ import annotations

from typing import Final, Literal

import apsw

from petsem.crypto.aead import random_bytes
from petsem.crypto.envelope import DamagedEnvelope, Record
from petsem.crypto.keys import random_id
from petsem.errors import Code, PetsemError
from petsem.server.keys import Keys
from petsem.server.store import tokens as rows
from petsem.server.store.orgs import OrgRow
from petsem.tokens.reasons import Reason, TokenRefused
from petsem.tokens.ticket import KEY_BYTES, Ticket, key_id_of, open_ticket

Use = Literal["sso", "boot", "client"]
_TICKETS: Final[tuple[Use, ...]] = ("sso", "boot")


def make_once(
    db: apsw.Connection, keys: Keys, org: OrgRow, use: Use, now_ms: int
) -> tuple[bytes, bytes]:
    """(id, key) of the org's key for that use, made now if there is none yet."""
    found = read(db, keys, org, use)
    if found is not None:
        return found
    secret = random_bytes(KEY_BYTES)
    return put(db, keys, org, use, secret, now_ms), secret


def put(
    db: apsw.Connection, keys: Keys, org: OrgRow, use: Use, secret: bytes, now_ms: int
) -> bytes:
    """Seal `secret` for that use in place of what was; its new id."""
    key_id = random_id()
    owner = org.tokens_owner
    envelope = keys.seal(db, owner, owner.place(Record.ROOT_KEY, key_id), secret)
    rows.write_shared_key(db, key_id, org.id, use, envelope, now_ms)
    return key_id


def forget(db: apsw.Connection, org: OrgRow, use: Use, now_ms: int) -> None:
    """Take away what was sealed for that use."""
    rows.write_shared_key(db, b"", org.id, use, None, now_ms)


def read(db: apsw.Connection, keys: Keys, org: OrgRow, use: Use) -> tuple[bytes, bytes] | None:
    """(id, key) of what the org has for that use, None if nothing; `corrupt` if it is damaged."""
    found = rows.shared_key(db, org.id, use)
    if found is None:
        return None
    key_id, envelope = found
    owner = org.tokens_owner
    try:
        return key_id, keys.open(db, owner, owner.place(Record.ROOT_KEY, key_id), envelope)
    except DamagedEnvelope:
        raise PetsemError(
            Code.CORRUPT,
            f"the key {key_id.hex()} of the org's authenticator is damaged; set the org's setting "
            "anew, or run 'petsem check' here",
        ) from None


def open_org_ticket(db: apsw.Connection, keys: Keys, org: OrgRow, data: bytes) -> Ticket:
    """A ticket of one of the org's authenticators; TokenRefused DISCHARGE_INVALID for what is none,
    or is of a setting that was turned off since."""
    key_id = key_id_of(data)
    for use in _TICKETS:
        found = read(db, keys, org, use)
        if found is not None and found[0] == key_id:
            ticket = open_ticket(key_id, found[1], data)
            if ticket.org == org.uid:
                return ticket
    raise TokenRefused(Reason.DISCHARGE_INVALID, "that is no ticket of this org")
