"""Whether what is sealed opens: keys, values, bundles, root keys, requests, the CA's key.

Guarantees: names what is damaged and never shows what it holds. What needs a KEK that is not in the
keyring is counted apart, which is no problem (a node may hold one purpose and not another) and no
proof either.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

import apsw

from petsem.counted import counted
from petsem.crypto import ca
from petsem.crypto.aead import random_bytes
from petsem.crypto.digest import secret_digest
from petsem.crypto.envelope import DamagedEnvelope, Place, Record, key_id_of, unwrap_data_key
from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError
from petsem.server import sql
from petsem.server.bundles import ETAG_BYTES, Bundles
from petsem.server.findings import Findings, Result
from petsem.server.keys import CLUSTER, Keys, Owner
from petsem.server.rewrapping import data_keys
from petsem.server.store import keyring, orgs, sampling, sealed, secrets

_PAGE: Final = 500
_ROOT_SECRET_BYTES: Final = 32


class EnvelopeCheck:
    """Opens a sample of each type of record, or with `sample` None all of them."""

    def __init__(
        self, db: apsw.Connection, keys: Keys, findings: Findings, sample: int | None
    ) -> None:
        self._db = db
        self._keys = keys
        self._findings = findings
        self._sample = sample

    def run(self, now_ms: int) -> None:
        """Everything, one part after the other."""
        for name, part in (
            ("keyring", self._keks),
            ("data keys", self._data_keys),
            ("values", self._values),
            ("boot bundles", self._bundles),
            ("root keys", self._root_keys),
            ("requests", self._requests),
            ("CA key", lambda name: self._ca_key(name, now_ms)),
        ):
            with self._findings.part(name):
                part(name)

    def _keks(self, name: str) -> None:
        lacking = 0
        for purpose in Purpose:
            for kek_id in keyring.keks_in_use(self._db, purpose):
                if self._keys.keyring.get(purpose, kek_id) is None:
                    lacking += 1
                    wraps = keyring.count_wrapped(self._db, purpose, kek_id)
                    self._findings.add(
                        name,
                        Result.NO_KEY,
                        f"the {purpose} key {kek_id.hex()}, which wraps {data_keys(wraps)}, is "
                        "not in the keyring",
                    )
        if not lacking:
            self._findings.add(name, Result.OK, "every key that is needed is in the keyring")

    def _data_keys(self, name: str) -> None:
        tally = _Tally()
        after = b""
        while page := keyring.data_keys(self._db, after, _PAGE):
            after = page[-1].id
            for row in page:
                kek = self._keys.keyring.get(row.owner.purpose, row.kek)
                if kek is None:
                    tally.skipped += 1
                    continue
                try:
                    unwrap_data_key(kek, row.owner.place(Record.DATA_KEY, row.id), row.wrapped)
                    tally.opened += 1
                except DamagedEnvelope:
                    tally.problems.append(f"{row.label} ({row.id.hex()[:8]}…) is damaged")
        self._tell(name, tally)

    def _values(self, name: str) -> None:
        tally = _Tally()
        for rowid in self._rows("secrets"):
            row = sql.one(
                self._db,
                "SELECT app, name, since, sealed_at, digest, envelope, size FROM secrets"
                " WHERE rowid = ? AND envelope IS NOT NULL",
                (rowid,),
            )
            found = None if row is None else sealed.app(self._db, row[0])
            if row is None or found is None:
                continue
            _, secret, since, sealed_at, digest, envelope, size = row
            owner = found.app.owner(found.org_uid)
            what = f"{found.label}/{secret} (version {since})"
            place = owner.place(Record.VALUE, secret.encode(), sealed_at)
            value = self._open(tally, owner, place, envelope, f"the value of {what} is damaged")
            if value is None:
                continue
            key = self._keys.data_key(self._db, owner, key_id_of(envelope))
            right = secret_digest(key, owner.incarnation, secret, value)
            if len(value) != size or not hmac.compare_digest(right, digest or b""):
                tally.problems.append(f"the size or digest of {what} is not that of its value")
        self._tell(name, tally, self._count("secrets"))

    def _bundles(self, name: str) -> None:
        tally = _Tally()
        bundles = Bundles(self._keys)
        for app_id in self._rows("bundles"):
            found, row = sealed.app(self._db, app_id), secrets.read_bundle(self._db, app_id)
            if found is None or row is None:
                continue
            version, envelope = row
            owner = found.app.owner(found.org_uid)
            what = f"the boot bundle of {found.label}"
            place = owner.place(Record.BUNDLE, b"", version)
            damaged = f"{what} is damaged; it is a cache, and is made again at the next write"
            plain = self._open(tally, owner, place, envelope, damaged)
            if plain is None or version != found.app.version:
                continue
            try:
                stored = secrets.current(self._db, app_id)
                tag, response = bundles.from_rows(self._db, owner, version, stored)
            except PetsemError:
                continue  # A value does not open; that is told with the values.
            if (plain[:ETAG_BYTES], plain[ETAG_BYTES:]) != (tag, response):
                tally.problems.append(
                    f"{what} is not what its secrets are; set any secret of it again"
                )
        self._tell(name, tally, self._count("bundles"))

    def _root_keys(self, name: str) -> None:
        tally = _Tally()
        after = b""
        while page := sealed.root_keys_after(self._db, after, _PAGE):
            after = page[-1][0]
            for key_id, owner, envelope, use in page:
                what = f"the root key {key_id.hex()} of {self._whose(owner)}"
                place = owner.place(Record.ROOT_KEY, key_id)
                secret = self._open(tally, owner, place, envelope, f"{what} is damaged")
                if use == "client" or secret is None:
                    continue
                if len(secret) != _ROOT_SECRET_BYTES:
                    tally.problems.append(f"{what} has a wrong length")
        self._tell(name, tally)

    def _requests(self, name: str) -> None:
        tally = _Tally()
        found = sampling.requests(self._db, self._sample, random_bytes(16))
        for nonce, method, path, key, org, uid, data_key, outcome in found:
            owner = CLUSTER if org is None else Owner(Purpose.TOKENS, org, uid)
            what = f"the record of a {method} to {path} by token {nonce.hex()}"
            scope = b"\0".join((nonce.hex().encode(), method.encode(), path.encode(), key.encode()))
            place = owner.place(Record.IDEMPOTENCY, scope)
            damaged = f"{what} is damaged; it expires by itself"
            if self._open(tally, owner, place, outcome, damaged) is None:
                continue
            if data_key not in keyring.ids_of(self._db, owner):
                tally.problems.append(f"{what} names a data key that is gone; it expires by itself")
        self._tell(name, tally, self._count("idempotency"))

    def _ca_key(self, name: str, now_ms: int) -> None:
        tally = _Tally()
        row = sql.one(self._db, "SELECT ca_cert, cluster_id FROM cluster")
        if row is None:
            raise PetsemError(Code.CORRUPT, "the database does not say which cluster it is of")
        cert, cluster_id = row
        place = CLUSTER.place(Record.CA_KEY, b"ca")
        damaged = "the private key of the cluster's CA is damaged"
        key = self._open(tally, CLUSTER, place, sealed.ca_key(self._db), damaged)
        if key is not None:
            try:
                # What a certificate is issued with must be of one CA.
                ca.issue_node(
                    cert,
                    key,
                    cluster_id=cluster_id,
                    node_id="check",
                    csr_pem=ca.node_csr(ca.new_node_key()),
                    now_ms=now_ms,
                    days=1,
                )
            except PetsemError as e:
                tally.problems.append(e.message)
        self._tell(name, tally)

    def _open(
        self, tally: _Tally, owner: Owner, place: Place, envelope: bytes, damaged: str
    ) -> bytes | None:
        try:
            plain = self._keys.open(self._db, owner, place, envelope)
        except DamagedEnvelope:
            tally.problems.append(damaged)
            return None
        except PetsemError as e:
            if e.code is not Code.UNAVAILABLE:
                raise
            tally.skipped += 1
            return None
        tally.opened += 1
        return plain

    def _whose(self, owner: Owner) -> str:
        org = None if owner.org is None else orgs.org_by_id(self._db, owner.org)
        return "the cluster" if org is None else org.name

    def _tell(self, name: str, tally: _Tally, of: int | None = None) -> None:
        """The lines of one part; `of` is how many there are, if only a sample was opened."""
        seen = tally.opened + tally.skipped + len(tally.problems)
        some = "" if of is None or of <= seen else f", a sample of {of:,}"
        self._findings.judge(name, tally.problems, f"{tally.opened:,} opened{some}")
        if tally.skipped:
            self._findings.add(
                name,
                Result.NO_KEY,
                f"{counted(tally.skipped, 'needs', 'need')} a key that is not in the keyring",
            )

    def _count(self, table: Literal["secrets", "bundles", "idempotency"]) -> int | None:
        return None if self._sample is None else sampling.count(self._db, table)

    def _rows(self, table: Literal["secrets", "bundles"]) -> Iterator[int]:
        chance = int.from_bytes(random_bytes(4)) / 2**32
        return sampling.row_numbers(self._db, table, self._sample, chance)


@dataclass(slots=True)
class _Tally:
    """What came of one type of record."""

    opened: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)
