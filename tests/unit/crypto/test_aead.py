"""The cipher against published vectors, and what its callers cannot do."""

import inspect
from typing import Any

import pytest

from petsem.crypto import aead
from tests.unit.crypto.reference import vectors

CASES = vectors("xchacha20poly1305")


def _case_id(case: dict[str, Any]) -> str:
    return f"{case['flags'][0]}-{case['source'].rpartition(' ')[2][-6:]}"


@pytest.mark.parametrize("case", CASES, ids=_case_id)
def test_decrypts_what_is_published_as_valid_and_nothing_else(case: dict[str, Any]) -> None:
    """A valid case gives its plaintext; each invalid one raises the same error."""
    key, nonce, associated = (bytes.fromhex(case[name]) for name in ("key", "iv", "aad"))
    sealed = bytes.fromhex(case["ct"] + case["tag"])
    if case["result"] == "valid":
        assert aead.decrypt(key, nonce, sealed, associated).hex() == case["msg"]
        return
    with pytest.raises(aead.AeadError) as caught:
        aead.decrypt(key, nonce, sealed, associated)
    assert str(caught.value) == "authenticated encryption failed"
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("size", [0, 8, 11, 12, 13, 14, 16, 20, 23, 25, 32])
def test_a_nonce_of_another_size_is_refused(size: int) -> None:
    """The published sizes of InvalidNonceSize are refused with a ciphertext that is long enough."""
    with pytest.raises(aead.AeadError):
        aead.decrypt(bytes(32), bytes(size), bytes(32), b"")


@pytest.mark.parametrize(
    "case", [case for case in CASES if case["result"] == "valid"], ids=_case_id
)
def test_encrypts_to_the_published_ciphertext(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the published nonce drawn, the ciphertext and tag are the published ones."""
    monkeypatch.setattr(aead, "random_bytes", lambda count: bytes.fromhex(case["iv"]))
    key, plaintext, associated = (bytes.fromhex(case[name]) for name in ("key", "msg", "aad"))
    nonce, sealed = aead.encrypt(key, plaintext, associated)
    assert (nonce.hex(), sealed.hex()) == (case["iv"], case["ct"] + case["tag"])


def test_no_caller_can_pass_a_nonce_to_encrypt() -> None:
    """Encryption has no parameter for a nonce, and draws another one each time."""
    assert list(inspect.signature(aead.encrypt).parameters) == ["key", "plaintext", "associated"]
    nonces = {aead.encrypt(bytes(32), b"", b"")[0] for _ in range(100)}
    assert len(nonces) == 100
    assert {len(nonce) for nonce in nonces} == {aead.NONCE_BYTES}


def test_randomness_comes_from_the_kernel_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw asks the kernel anew; nothing is buffered that a fork could repeat."""
    asked: list[int] = []

    def urandom(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    monkeypatch.setattr("os.urandom", urandom)
    assert (aead.random_bytes(3), aead.random_bytes(0)) == (bytes(3), b"")
    assert asked == [3, 0]


@pytest.mark.parametrize("length", range(aead.TAG_BYTES))
def test_what_is_shorter_than_a_tag_is_refused(length: int) -> None:
    """A ciphertext that cannot hold a tag is the same error, not one of the binding's."""
    with pytest.raises(aead.AeadError):
        aead.decrypt(bytes(32), bytes(24), bytes(length), b"")


def test_a_key_of_another_size_is_refused_both_ways() -> None:
    """A short key is the same error and no exception of the binding."""
    with pytest.raises(aead.AeadError):
        aead.encrypt(bytes(31), b"", b"")
    with pytest.raises(aead.AeadError):
        aead.decrypt(bytes(31), bytes(24), bytes(16), b"")
