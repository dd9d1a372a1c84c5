"""The format page shows what the code writes."""

import json
import re

from petsem.crypto.envelope import FORMAT, MAGIC, OVERHEAD_BYTES, Record
from petsem.crypto.keyring import Keyring
from petsem.limits import ENVELOPE_MAX_BYTES, KEYRING_MAX_BYTES, KEYRING_MAX_KEYS
from tests.unit.crypto.reference import DOCS, vectors


def test_every_hexadecimal_example_of_the_page_is_a_vector() -> None:
    """What the page prints in hexadecimal stands in the vector files, which other tests hold."""
    text = DOCS.read_text()
    blocks = re.findall(r"^```\n([0-9a-f\n]+)^```$", text, re.MULTILINE)
    shown = [block.replace("\n", "") for block in blocks] + re.findall(r"`([0-9a-f]{32,})`", text)
    names = ("envelope", "wrapped_keys", "key_ids", "digests")
    known = json.dumps([vectors(name) for name in names])
    assert len(shown) == 14
    assert [one for one in shown if f'"{one}"' not in known] == []


def test_the_keyring_of_the_page_is_what_the_program_writes() -> None:
    """The page's JSON parses, and encoding it again gives the same bytes."""
    (text,) = re.findall(r"^```json\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert Keyring.parse(text.encode()).encode().decode() == text


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    """Magic, format, overhead, limits and record types of the page are the code's."""
    text = DOCS.read_text()
    assert (MAGIC, FORMAT, OVERHEAD_BYTES, ENVELOPE_MAX_BYTES) == (b"petsem", 1, 80, 2_097_152)
    assert f"{OVERHEAD_BYTES} bytes longer than its plaintext" in text
    assert f"({ENVELOPE_MAX_BYTES:,} bytes)" in text
    assert f"{KEYRING_MAX_BYTES // 1024} KiB and {KEYRING_MAX_KEYS} keys" in text
    table = text[text.index("| record type | holds") : text.index("*Sealed at*")]
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == list(Record)
