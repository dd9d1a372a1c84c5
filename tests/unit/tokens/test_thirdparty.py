"""Third-party caveats: sealed keys open only where they were sealed."""

from __future__ import annotations

import pytest
from nacl.secret import SecretBox

from petsem.errors import Code, PetsemError
from petsem.limits import CAVEAT_MAX_BYTES, CAVEATS_MAX
from petsem.tokens.macaroon import VID_BYTES, Caveat
from petsem.tokens.reasons import Reason
from petsem.tokens.thirdparty import open_key, require_discharge, seal_key
from tests.unit.tokens.build import SECRET, derived, mac, made, refused

SIGNATURE = bytes(range(32, 64))


def test_a_sealed_key_opens_to_the_derived_key() -> None:
    """The third party signs under the derived key, as with any macaroon."""
    vid = seal_key(SIGNATURE, b"caveat key")
    assert len(vid) == VID_BYTES
    assert open_key(SIGNATURE, vid) == derived(b"caveat key")


def test_no_two_sealed_keys_share_a_nonce() -> None:
    """Drawn inside, each time."""
    vids = [seal_key(SIGNATURE, b"caveat key") for _ in range(64)]
    assert len({vid[:24] for vid in vids}) == 64
    assert bytes(24) not in {vid[:24] for vid in vids}


def test_a_sealed_key_opens_under_no_other_signature() -> None:
    """A vid that was moved to another token opens nothing."""
    with refused(Reason.DISCHARGE_INVALID):
        open_key(bytes(32), seal_key(SIGNATURE, b"caveat key"))


@pytest.mark.parametrize("at", range(0, VID_BYTES, 7))
def test_an_altered_sealed_key_does_not_open(at: int) -> None:
    """Nonce, tag or ciphertext."""
    vid = bytearray(seal_key(SIGNATURE, b"caveat key"))
    vid[at] ^= 1
    with refused(Reason.DISCHARGE_INVALID):
        open_key(SIGNATURE, bytes(vid))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_sealed_key_of_another_length_is_not_one(length: int) -> None:
    """Well sealed, but not 32 bytes: refused where other libraries would use it as a key."""
    with refused(Reason.DISCHARGE_INVALID):
        open_key(SIGNATURE, bytes(SecretBox(SIGNATURE).encrypt(bytes(length), bytes(24))))


def test_a_required_discharge_is_signed_over_ticket_and_sealed_key() -> None:
    """As the published construction says."""
    root = made(SECRET, b"id", [b"org = acme"])
    narrowed = require_discharge(root, b"https://auth.example", b"caveat key", b"ticket")
    caveat = narrowed.caveats[-1]
    assert caveat.vid is not None
    assert caveat == Caveat(b"ticket", caveat.vid, b"https://auth.example")
    assert narrowed.caveats[:-1] == root.caveats
    assert narrowed.signature == mac(root.signature, caveat.vid, b"ticket")
    assert open_key(root.signature, caveat.vid) == derived(b"caveat key")


@pytest.mark.parametrize(
    ("caveats", "ticket"), [(CAVEATS_MAX, 1), (0, CAVEAT_MAX_BYTES + 1)], ids=["caveats", "ticket"]
)
def test_a_required_discharge_keeps_to_the_limits(caveats: int, ticket: int) -> None:
    """What could not be read back is not made."""
    root = made(SECRET, b"id", [b"a = b"] * caveats)
    with pytest.raises(PetsemError) as info:
        require_discharge(root, b"", b"caveat key", b"t" * ticket)
    assert info.value.code is Code.INVALID
