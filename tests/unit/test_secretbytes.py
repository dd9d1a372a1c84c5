"""Secret bytes stay out of every text and every serialiser."""

import copy
import json
import logging
import pickle
import pprint
import traceback
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from petsem.secretbytes import SecretBytes

RAW = b"canary-value"
SECRET = SecretBytes(RAW)


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        ascii,
        "{}".format,
        "{!r}".format,
        "%s".__mod__,
        "%r".__mod__,
        pprint.pformat,
        lambda secret: f"{secret}",
        lambda secret: repr([secret, {"k": secret}]),
        lambda secret: str(ValueError(secret)),
    ],
)
def test_no_text_shows_the_value(show: Callable[[Any], str]) -> None:
    """Every usual way to make text of it gives the redacted form."""
    text = show(SECRET)
    assert "canary" not in text
    assert RAW.hex() not in text
    assert "SecretBytes(" in text


def test_a_log_line_does_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    """The standard logger writes the redacted form, as argument and as extra."""
    logging.getLogger("test").error("%s %r", SECRET, SECRET, extra={"secret": SECRET})
    assert "canary" not in caplog.text
    assert "canary" not in repr([vars(record) for record in caplog.records])


def test_a_traceback_with_locals_does_not_show_it() -> None:
    """Whoever prints the variables of each frame prints the redacted form."""
    wrapped = SecretBytes(b"".join((b"can", b"ary")))
    try:
        raise ValueError(wrapped)
    except ValueError as error:
        frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    told = "".join(frames.format())
    assert "wrapped = SecretBytes(" in told
    assert "canary" not in told.replace('(b"can", b"ary")', "")


@pytest.mark.parametrize(
    "attempt",
    [
        *(lambda secret, p=protocol: pickle.dumps(secret, p) for protocol in range(6)),
        copy.copy,
        copy.deepcopy,
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        msgspec.to_builtins,
        bytes,
        memoryview,
        list,
        vars,
        hash,
        b"".join,
        lambda secret: b"" + secret,
        lambda secret: secret[0],
        lambda secret: format(secret, "s16"),
    ],
)
def test_no_serialiser_or_conversion_takes_it(attempt: Callable[[Any], object]) -> None:
    """Pickle, copy, JSON, msgpack and what treats it as bytes all refuse."""
    with pytest.raises((TypeError, ValueError)) as caught:
        attempt(SECRET)
    assert "canary" not in str(caught.value)


def test_reveal_and_len_are_the_only_ways_in() -> None:
    """The bytes come out by name, exactly, and the length is no secret."""
    assert SECRET.reveal() == RAW
    assert len(SECRET) == len(RAW)
    assert SecretBytes(b"").reveal() == b""


def test_it_keeps_its_own_copy() -> None:
    """A buffer that changes afterwards does not change the secret."""
    buffer = bytearray(b"before")
    secret = SecretBytes(buffer)  # type: ignore[arg-type]
    buffer[:] = b"after!"
    assert secret.reveal() == b"before"


def test_comparison_is_by_value_and_only_with_its_own_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equality takes constant time, and plain bytes are never equal to a secret."""
    compared: list[tuple[bytes, bytes]] = []

    def compare_digest(first: bytes, second: bytes) -> bool:
        compared.append((first, second))
        return first == second

    monkeypatch.setattr("hmac.compare_digest", compare_digest)
    assert SecretBytes(RAW) == SecretBytes(RAW)
    assert SecretBytes(RAW) != SecretBytes(b"canary-valuf")
    assert compared == [(RAW, RAW), (RAW, b"canary-valuf")]
    assert SECRET != RAW
    assert SECRET.__eq__(RAW) is NotImplemented


def test_nothing_can_be_attached_to_it() -> None:
    """It has no dictionary where a value could be left by mistake."""
    with pytest.raises(AttributeError):
        SECRET.note = RAW  # type: ignore[attr-defined]
