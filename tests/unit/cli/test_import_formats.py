"""JSON and YAML imports, and what all formats have in common."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml

from petsem import limits
from petsem.cli.batch import IMPORT_MAX_BYTES, Entry, check_entries, value_bytes, wire_value
from petsem.cli.importing import read_entries
from petsem.errors import Code, PetsemError
from petsem.wire.http import Base64Value
from tests.unit.cli.test_import_dotenv import DEMO_VALUES


def refusal(file: Path, data: bytes) -> str:
    """The message with which a file is refused; the word hunter2 is never in it."""
    file.write_bytes(data)
    with pytest.raises(PetsemError) as caught:
        read_entries(str(file), None)
    assert caught.value.code is Code.INVALID
    assert "hunter" not in caught.value.message
    assert "hunter" not in repr(caught.value.__cause__)
    return caught.value.message


def test_json_and_yaml_carry_what_dotenv_carries(tmp_path: Path) -> None:
    """The demonstration's values come through both formats as the same bytes."""
    for name, text in (
        ("a.json", json.dumps(DEMO_VALUES)),
        ("b.json", json.dumps(DEMO_VALUES, ensure_ascii=False, indent=1)),
        ("a.yaml", yaml.safe_dump(DEMO_VALUES)),
        ("b.yml", yaml.safe_dump(DEMO_VALUES, allow_unicode=True, default_style='"')),
    ):
        file = tmp_path / name
        file.write_text(text)
        read = {each.name: each.value.decode() for each in read_entries(str(file), None)}
        assert read == DEMO_VALUES


def test_yaml_block_scalars_keep_their_lines(tmp_path: Path) -> None:
    """The usual way to write a PEM key in YAML."""
    file = tmp_path / "a.yaml"
    file.write_text("KEY: |\n  -----BEGIN EXAMPLE-----\n  abc=\n  -----END EXAMPLE-----\nB: x\n")
    values = {each.name: each.value for each in read_entries(str(file), None)}
    assert values == {
        "KEY": b"-----BEGIN EXAMPLE-----\nabc=\n-----END EXAMPLE-----\n",
        "B": b"x",
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "one JSON object"),
        ('"hunter2"', "one JSON object"),
        ('{"A": "hunter2", "B": 1}', "entry 2 is not a string"),
        ('{"A": null}', "entry 1 is not a string"),
        ('{"A": {"hunter2": "x"}}', "entry 1 is not a string"),
        ('{"A": NaN}', "entry 1 is not a string"),
        ('{"A": ' + "1" * 5000 + "}", "entry 1 is not a string"),
        ('{"A": "x",\n "B": "y",\n "A": "hunter2"}', "entry 3 has a name that entry 1 has"),
        ('{"A": "x",\n "hunter2', "line 2, column 2: this is not valid JSON"),
        ('{"A": "\\ud800"}', "entry 1 has half a surrogate pair"),
        ('{"hunter 2": "x"}', "entry 1: a secret's name is"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "nothing to import"),
        ("", "line 1, column 1"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """Only one flat object of strings is taken, and nothing of it is quoted."""
    assert says in refusal(tmp_path / "a.json", text.encode())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- hunter2", "one YAML mapping"),
        ("hunter2", "one YAML mapping"),
        ("", "one YAML mapping"),
        ("{}", "nothing to import"),
        ("A: x\nB: 1", "line 2: YAML reads the value as a number"),
        ("A: no", "line 1: YAML reads"),
        ("A: 2026-01-01", "line 1: YAML reads"),
        ("A:", "line 1: YAML reads"),
        ("A: !!binary aHVudGVyMg==", "line 1: YAML reads"),
        ("A: !!python/name:hunter2 x", "line 1: YAML reads"),
        ("A: x\nB: [hunter2]", "line 2: the value is a list"),
        ("A: {hunter2: x}", "line 1: the value is a list"),
        ("yes: hunter2", "line 1: the name is not plain text"),
        ("? [a]\n: hunter2", "line 1: the name is not plain text"),
        ("<<: {A: hunter2}", "line 1: the name is not plain text"),
        ("A: x\nB: y\nA: hunter2", "line 3 has a name that line 1 has already"),
        ("A: x\nB: 'hunter2", "not valid YAML"),
        ("A: x\nB: *hunter2", "line 2, column 4: this is not valid YAML"),
        ("A: x\n---\nA: hunter2", "not valid YAML"),
        ("A: x\nB: hunter2\x07", "line 2 has a character"),
        ('A: "\\ud800"', "half a surrogate pair"),
        ("A: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, says: str) -> None:
    """Only one flat mapping of strings is taken, and nothing of it is quoted."""
    assert says in refusal(tmp_path / "a.yaml", text.encode())


@pytest.mark.parametrize("name", ["a.env", "a.json", "a.yaml"])
def test_text_that_is_not_utf8(tmp_path: Path, name: str) -> None:
    """The line is named; there is a way for such a value."""
    message = refusal(tmp_path / name, b"A=1\nB=hunter2\xff\n")
    assert message.startswith("line 2 is not UTF-8 text")
    assert "NAME=@FILE" in message


def test_a_file_is_read_to_a_limit(tmp_path: Path) -> None:
    """A file larger than any app is refused, not loaded whole."""
    message = refusal(tmp_path / "a.env", b"A=" + b"x" * IMPORT_MAX_BYTES)
    assert "larger than" in message


def test_a_file_that_is_not_there_is_not_named(tmp_path: Path) -> None:
    """A path may be a mistyped secret."""
    for path in (str(tmp_path / "hunter2"), str(tmp_path), "hunter2\0"):
        with pytest.raises(PetsemError) as caught:
            read_entries(path, None)
        assert caught.value.code is Code.INVALID
        assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([Entry("A", b"x" * (limits.VALUE_MAX_BYTES + 1), "line 3")], "line 3: the value has"),
        ([Entry(f"A{n}", b"", f"line {n}") for n in range(1001)], "at most 1,000"),
        ([Entry(f"A{n}", b"x" * 65_536, f"line {n}") for n in range(16)], "at most 1,048,576"),
        ([Entry("A" * 256, b"", "line 1")], "line 1: a secret's name is"),
    ],
)
def test_bounds(entries: list[Entry], says: str) -> None:
    """What a node would refuse for its size is refused before it is sent."""
    with pytest.raises(PetsemError) as caught:
        check_entries(entries)
    assert says in caught.value.message


def test_values_on_the_wire() -> None:
    """Text travels as text; bytes, and text that escapes would swell, as base64."""
    assert wire_value("grün\n€".encode()) == "grün\n€"
    assert wire_value(b"") == ""
    assert wire_value(b"\xff") == Base64Value("/w==")
    assert isinstance(wire_value(b"\x01" * 100), Base64Value)
    for value in (b"", b"\xff\x00", b"\x01" * 9, "naïve".encode(), bytes(range(256))):
        assert value_bytes(wire_value(value)) == value


def test_any_app_fits_into_one_request() -> None:
    """Whatever its bytes, a full app stays under the limit of a body."""
    for unit in (b"\x01", b"\n", b'"', b"\\", b"\xff", "é".encode(), b'"\n'):
        value = unit * (60_000 // len(unit))
        body = {f"A{n}": wire_value(value) for n in range(17)}
        assert len(msgspec.json.encode(body)) < limits.HTTP_BODY_MAX_BYTES * 3 // 4
