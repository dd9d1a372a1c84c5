"""The reference that the other tests compare with is itself held to published values."""

import pytest

from tests.unit.crypto import reference
from tests.unit.crypto.reference import vectors


@pytest.mark.parametrize("case", vectors("hchacha20"), ids=lambda case: case["input"])
def test_hchacha20_gives_the_published_subkey(case: dict[str, str]) -> None:
    """HChaCha20 of the reference agrees with the draft and with libsodium."""
    subkey = reference.hchacha20(bytes.fromhex(case["key"]), bytes.fromhex(case["input"]))
    assert subkey.hex() == case["output"]


@pytest.mark.parametrize(
    "case",
    [case for case in vectors("xchacha20poly1305") if case["result"] == "valid"],
    ids=lambda case: case["source"][-8:],
)
def test_the_reference_gives_the_published_ciphertexts(case: dict[str, str]) -> None:
    """The cipher of the reference agrees with every valid published case."""
    key, nonce, plaintext, associated = (
        bytes.fromhex(case[name]) for name in ("key", "iv", "msg", "aad")
    )
    sealed = reference.encrypt(key, nonce, plaintext, associated)
    assert sealed.hex() == case["ct"] + case["tag"]
