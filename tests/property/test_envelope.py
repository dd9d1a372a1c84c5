"""Envelopes, places and keyrings for whatever bytes Hypothesis finds."""

import contextlib

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from petsem.crypto import keys
from petsem.crypto.digest import secret_digest
from petsem.crypto.envelope import (
    OVERHEAD_BYTES,
    DamagedEnvelope,
    Place,
    Record,
    key_id_of,
    open_sealed,
    seal,
)
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import Purpose
from petsem.errors import Code, PetsemError

KEY = keys.data_key(bytes(range(32)))

short = st.binary(max_size=40)
places = st.builds(
    Place,
    st.sampled_from(Record),
    st.sampled_from(Purpose),
    short,
    short,
    short,
    st.integers(0, 2**64 - 1),
)
raw_keys = st.binary(min_size=32, max_size=32)
# The machine is shared, so how long one example takes says nothing.
relaxed = settings(deadline=None)


def _opens(key: keys.Key, place: Place, envelope: bytes) -> bytes | None:
    try:
        return open_sealed(key, place, envelope)
    except DamagedEnvelope:
        return None


def _parsed(text: bytes) -> Keyring | None:
    """The keyring, or None for `invalid`; any other error is a failure of the test."""
    try:
        return Keyring.parse(text)
    except PetsemError as error:
        if error.code is not Code.INVALID:
            raise
        return None


@relaxed
@given(raw_keys, places, st.binary(max_size=5000))
@example(bytes(32), Place(Record.VALUE, Purpose.SECRETS, b"", b"", b"", 0), b"")
def test_what_is_sealed_opens_in_its_place(raw: bytes, place: Place, plaintext: bytes) -> None:
    """Any plaintext comes back from any place under any key, and the header names the key."""
    key = keys.data_key(raw)
    sealed = seal(key, place, plaintext)
    assert open_sealed(key, place, sealed) == plaintext
    assert key_id_of(sealed) == key.id
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES


@relaxed
@given(places, places)
def test_no_two_places_share_an_envelope(place: Place, other: Place) -> None:
    """An envelope of one place opens in no other, whatever the two have in common."""
    assume(place != other)
    assert _opens(KEY, other, seal(KEY, place, b"value")) is None


@relaxed
@given(places, st.data())
def test_bytes_do_not_move_between_neighbouring_fields(place: Place, data: st.DataObject) -> None:
    """Cut the same bytes into org, app and name differently, and the envelope is damaged."""
    joined = place.org_id + place.incarnation + place.name
    first = data.draw(st.integers(0, len(joined)))
    second = data.draw(st.integers(first, len(joined)))
    other = place._replace(
        org_id=joined[:first],
        incarnation=joined[first:second],
        name=joined[second:],
    )
    opened = _opens(KEY, other, seal(KEY, place, b"value"))
    assert opened == (b"value" if other == place else None)


@relaxed
@given(places, st.binary(max_size=300))
def test_no_bytes_but_an_envelope_open(place: Place, junk: bytes) -> None:
    """Arbitrary bytes, with and without a right header, are damage and never another error."""
    header = b"petsem\x01" + bytes((place.record,)) + KEY.id
    for candidate in (junk, header + junk):
        assert _opens(KEY, place, candidate) is None
        with contextlib.suppress(DamagedEnvelope):
            key_id_of(candidate)


@relaxed
@given(st.lists(st.tuples(st.sampled_from(Purpose), raw_keys), max_size=8))
def test_a_keyring_comes_back_from_its_text(held: list[tuple[Purpose, bytes]]) -> None:
    """Encoding and parsing are inverse for every keyring."""
    keyring = Keyring()
    for purpose, raw in {raw: (purpose, raw) for purpose, raw in held}.values():
        keyring = keyring.with_key(purpose, keys.kek(raw))
    assert Keyring.parse(keyring.encode()) == keyring


@relaxed
@given(st.data())
def test_a_keyring_with_an_altered_byte_is_refused_or_means_the_same(data: st.DataObject) -> None:
    """One altered byte of the text never gives another key under the same id."""
    text = bytearray(Keyring().with_key(Purpose.SECRETS, keys.kek(bytes(range(32)))).encode())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.integers(0, 255))
    held = _parsed(bytes(text))
    if held is not None:
        ((purpose, key),) = held.keys()
        assert (purpose, key) == (Purpose.SECRETS, keys.kek(bytes(range(32))))
        assert key.secret.reveal() == bytes(range(32))


@relaxed
@given(st.binary(max_size=400))
def test_a_keyring_of_junk_is_invalid(junk: bytes) -> None:
    """Arbitrary bytes give the one error of the family and no foreign exception."""
    assert _parsed(junk) is None


fields = st.tuples(short, st.text(max_size=20), short)


@relaxed
@given(fields, fields)
def test_different_fields_have_different_digests(
    first: tuple[bytes, str, bytes], second: tuple[bytes, str, bytes]
) -> None:
    """Digests are equal exactly when app, name and value are."""
    digests = [secret_digest(KEY, app, name, value) for app, name, value in (first, second)]
    assert (digests[0] == digests[1]) == (first == second)
