"""Envelopes: what opens, and that all else is one and the same refusal."""

from typing import Any

import pytest

from petsem import limits
from petsem.crypto import aead, keys
from petsem.crypto.envelope import (
    OVERHEAD_BYTES,
    DamagedEnvelope,
    Place,
    Record,
    key_id_of,
    open_sealed,
    seal,
    unwrap_data_key,
    wrap_data_key,
)
from petsem.crypto.keys import Key, Purpose
from petsem.errors import Code, PetsemError
from petsem.secretbytes import SecretBytes
from tests.unit.crypto import reference
from tests.unit.crypto.reference import vectors

MESSAGE = "a sealed record is damaged, was moved, or is under another key"
KEY = keys.data_key(bytes(range(32)))
KEK = keys.kek(bytes(range(32, 64)))
PLACE = Place(Record.VALUE, Purpose.SECRETS, b"o" * 16, b"i" * 16, b"DATABASE_URL", 7)
ROW = Place(Record.DATA_KEY, Purpose.SECRETS, b"o" * 16, b"i" * 16, KEY.id, 0)
MAKERS = {"kek": keys.kek, "data_key": keys.data_key}


def _place(case: dict[str, Any]) -> Place:
    place = case["place"]
    return Place(
        Record(place["record"]),
        Purpose(place["purpose"]),
        bytes.fromhex(place["org_id"]),
        bytes.fromhex(place["incarnation"]),
        bytes.fromhex(place["name"]),
        place["version"],
    )


def _refused(key: Key, place: Place, sealed: bytes) -> None:
    """Opening fails with the one message, and nothing hangs on the exception."""
    with pytest.raises(DamagedEnvelope) as caught:
        open_sealed(key, place, sealed)
    assert type(caught.value) is DamagedEnvelope
    assert caught.value.args == (MESSAGE,)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize("case", vectors("envelope"), ids=lambda case: case["comment"])
def test_vectors(case: dict[str, Any]) -> None:
    """Each envelope of the table opens to its plaintext or is refused, as the table says."""
    key, place = MAKERS[case["kind"]](bytes.fromhex(case["key"])), _place(case)
    sealed = bytes.fromhex(case["envelope"])
    if "error" in case:
        assert case["error"] == DamagedEnvelope.__name__
        _refused(key, place, sealed)
    else:
        assert open_sealed(key, place, sealed).hex() == case["plaintext"]
    if case.get("header_error"):
        with pytest.raises(DamagedEnvelope, match=MESSAGE):
            key_id_of(sealed)
    else:
        assert key_id_of(sealed) == sealed[8:40]


@pytest.mark.parametrize(
    "case",
    [case for case in vectors("envelope") if "error" not in case],
    ids=lambda case: case["comment"],
)
def test_seals_to_the_bytes_of_the_vectors_and_of_the_reference(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the table's nonce drawn, both this code and the reference write the table's bytes."""
    raw, nonce = bytes.fromhex(case["key"]), bytes.fromhex(case["nonce"])
    key, plaintext = MAKERS[case["kind"]](raw), bytes.fromhex(case["plaintext"])
    monkeypatch.setattr(aead, "random_bytes", lambda count: nonce)
    assert seal(key, _place(case), plaintext).hex() == case["envelope"]
    again = reference.envelope(raw, key.id, nonce, case["place"], plaintext)
    assert again.hex() == case["envelope"]
    assert reference.associated_data(case["place"], key.id).hex() == case["associated"]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 64, limits.VALUE_MAX_BYTES])
def test_round_trip_adds_exactly_the_overhead(size: int) -> None:
    """Values of every size, the empty one among them, come back the same."""
    value = bytes(range(256)) * (size // 256 + 1)
    sealed = seal(KEY, PLACE, value[:size])
    assert len(sealed) == size + OVERHEAD_BYTES
    assert open_sealed(KEY, PLACE, sealed) == value[:size]


def test_the_same_value_is_sealed_differently_each_time() -> None:
    """Nonces are fresh, so envelopes do not show that two values are equal."""
    assert len({seal(KEY, PLACE, b"same") for _ in range(50)}) == 50


MOVES = {
    "org": {"org_id": b"p" * 16},
    "no org": {"org_id": b""},
    "app": {"incarnation": b"j" * 16},
    "no app": {"incarnation": b""},
    "name": {"name": b"DATABASE_URI"},
    "no name": {"name": b""},
    "version": {"version": 8},
    "version 0": {"version": 0},
    "purpose": {"purpose": Purpose.TOKENS},
    "org and app swapped": {"org_id": b"i" * 16, "incarnation": b"o" * 16},
    "boundary of org and app": {"org_id": b"o" * 15, "incarnation": b"o" + b"i" * 16},
    "boundary of app and name": {"incarnation": b"i" * 15, "name": b"iDATABASE_URL"},
}


@pytest.mark.parametrize("change", MOVES.values(), ids=list(MOVES))
def test_an_envelope_opens_only_in_its_place(change: dict[str, Any]) -> None:
    """Moved to another org, app, name, version or purpose, an envelope is damaged."""
    _refused(KEY, PLACE._replace(**change), seal(KEY, PLACE, b"value"))


@pytest.mark.parametrize("record", [record for record in Record if record is not PLACE.record])
def test_a_record_cannot_become_another(record: Record) -> None:
    """Another record type is refused, even when the header's byte is altered to match."""
    sealed, moved = seal(KEY, PLACE, b"value"), PLACE._replace(record=record)
    _refused(KEY, moved, sealed)
    _refused(KEY, moved, sealed[:7] + bytes((record,)) + sealed[8:])


def test_every_altered_byte_is_refused_alike() -> None:
    """Each byte of an envelope, set to each other value, gives the identical refusal."""
    sealed = seal(KEY, PLACE, b"value")
    for at in range(len(sealed)):
        for change in range(1, 256):
            altered = bytearray(sealed)
            altered[at] ^= change
            with pytest.raises(DamagedEnvelope) as caught:
                open_sealed(KEY, PLACE, bytes(altered))
            assert caught.value.args == (MESSAGE,)


def test_every_truncation_and_extension_is_refused_alike() -> None:
    """No prefix of an envelope opens, nor any of its suffixes, nor one with a byte more."""
    sealed = seal(KEY, PLACE, b"value")
    for length in range(len(sealed)):
        _refused(KEY, PLACE, sealed[:length])
        _refused(KEY, PLACE, sealed[length + 1 :])
    for extra in (b"\0", b"\xff", sealed):
        _refused(KEY, PLACE, sealed + extra)


def test_truncated_headers_have_no_key_id() -> None:
    """What is too short to be an envelope names no key."""
    sealed = seal(KEY, PLACE, b"")
    assert key_id_of(sealed) == KEY.id
    for length in range(len(sealed)):
        with pytest.raises(DamagedEnvelope, match=MESSAGE):
            key_id_of(sealed[:length])


def test_another_key_is_refused_like_any_damage() -> None:
    """A wrong key, and the right bytes as a key of the other kind, give the same refusal."""
    sealed = seal(KEY, PLACE, b"value")
    _refused(keys.data_key(bytes(32)), PLACE, sealed)
    _refused(keys.kek(KEY.secret.reveal()), PLACE, sealed)


def test_an_envelope_that_decrypts_under_two_keys_opens_under_the_one_it_names() -> None:
    """A forged ciphertext whose tag is right under two keys opens only under the key of its id."""
    other = keys.data_key(b"\xaa" * 32)
    nonce, place = bytes(24), vectors("envelope")[0]["place"]
    sides = [
        (key.secret.reveal(), reference.associated_data(place, key.id)) for key in (KEY, other)
    ]
    body = reference.two_key_ciphertext(sides, nonce)
    # The cipher alone takes it under both keys, each with the associated data that names it.
    for raw, associated in sides:
        assert aead.decrypt(raw, nonce, body, associated)
    sealed = b"petsem\x01\x01" + KEY.id + nonce + body
    assert open_sealed(KEY, _place({"place": place}), sealed)
    _refused(other, _place({"place": place}), sealed)


def test_lengths_are_checked_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sealing nor opening touches the cipher for what is over the limit."""

    def never(*_: object) -> bytes:
        raise AssertionError("the cipher was reached")

    monkeypatch.setattr(aead, "encrypt", never)
    monkeypatch.setattr(aead, "decrypt", never)
    too_long = bytes(limits.ENVELOPE_MAX_BYTES + 1)
    with pytest.raises(PetsemError) as caught:
        seal(KEY, PLACE, too_long[OVERHEAD_BYTES:])
    assert caught.value.code is Code.INVALID
    assert caught.value.detail.reason == "TOO_LARGE"
    head = b"petsem\x01\x01" + KEY.id
    _refused(KEY, PLACE, head + too_long[len(head) :])
    with pytest.raises(DamagedEnvelope, match=MESSAGE):
        key_id_of(head + too_long[len(head) :])


def test_the_largest_envelope_opens() -> None:
    """The limit itself is allowed, both ways."""
    value = bytes(limits.ENVELOPE_MAX_BYTES - OVERHEAD_BYTES)
    assert open_sealed(KEY, PLACE, seal(KEY, PLACE, value)) == value


@pytest.mark.parametrize(
    "change", [{"version": -1}, {"version": 2**64}, {"name": bytes(65_536)}], ids=str
)
def test_a_place_out_of_bounds_is_our_own_mistake(change: dict[str, Any]) -> None:
    """Fields that the associated data cannot hold are refused, never cut off or wrapped."""
    with pytest.raises(ValueError, match="a field of the place is out of its bounds"):
        seal(KEY, PLACE._replace(**change), b"")


@pytest.mark.parametrize("case", vectors("wrapped_keys"), ids=lambda case: case["comment"])
def test_wrapped_key_vectors(case: dict[str, Any]) -> None:
    """Each wrapped key of the table gives its key or is refused, as the table says."""
    kek, place = keys.kek(bytes.fromhex(case["kek"])), _place(case)
    wrapped = bytes.fromhex(case["wrapped"])
    if "error" in case:
        assert case["error"] == DamagedEnvelope.__name__
        with pytest.raises(DamagedEnvelope, match=MESSAGE):
            unwrap_data_key(kek, place, wrapped)
    else:
        key = unwrap_data_key(kek, place, wrapped)
        assert key == keys.data_key(bytes.fromhex(case["key"]))
        assert key.secret.reveal().hex() == case["key"]


def test_a_wrapped_key_is_bound_to_its_row() -> None:
    """A wrapped data key opens in its own row only: not of another org, app or key."""
    wrapped = wrap_data_key(KEK, ROW, KEY)
    assert unwrap_data_key(KEK, ROW, wrapped).secret == KEY.secret
    other = keys.generate_data_key()
    for row in (
        ROW._replace(name=other.id),
        ROW._replace(org_id=b"p" * 16),
        ROW._replace(incarnation=b"j" * 16),
        ROW._replace(purpose=Purpose.TOKENS),
        ROW._replace(version=1),
    ):
        with pytest.raises(DamagedEnvelope, match=MESSAGE):
            unwrap_data_key(KEK, row, wrapped)


def test_a_key_that_is_not_its_rows_is_never_wrapped() -> None:
    """The row's name must be the key's id before anything is sealed."""
    with pytest.raises(AssertionError):
        wrap_data_key(KEK, ROW._replace(name=b"x" * 32), KEY)
    with pytest.raises(AssertionError):
        wrap_data_key(KEK, ROW._replace(record=Record.VALUE), KEY)


def test_unwrapping_computes_the_id_anew() -> None:
    """A holder of the KEK cannot put another key under a row's id: the bytes decide."""
    wrapped = seal(KEK, ROW, b"\x55" * 32)
    with pytest.raises(DamagedEnvelope, match=MESSAGE):
        unwrap_data_key(KEK, ROW, wrapped)
    impostor = Key(KEY.id, SecretBytes(b"\x55" * 32))
    with pytest.raises(DamagedEnvelope, match=MESSAGE):
        unwrap_data_key(KEK, ROW, wrap_data_key(KEK, ROW, impostor))


def test_the_refusal_takes_no_words() -> None:
    """Nobody can put detail into the exception: its constructor takes none."""
    with pytest.raises(TypeError):
        DamagedEnvelope("tag mismatch")  # type: ignore[call-arg]
