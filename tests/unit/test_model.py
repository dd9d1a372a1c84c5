"""The shared nouns: which names are names, and how positions and kinds are spelt."""

import dataclasses
from collections.abc import Callable

import pytest

from petsem import model
from petsem.errors import Code, PetsemError
from petsem.model import Kind, Position


def _invalid(check: Callable[[], object], message: str) -> None:
    with pytest.raises(PetsemError) as caught:
        check()
    assert (caught.value.code, caught.value.message) == (Code.INVALID, message)


TENANT_RULE = (
    "'s name is 1 to 63 lower-case letters, digits and hyphens, with no hyphen first or last"
)
SECRET_RULE = (
    "a secret's name is a letter or underscore followed by letters, digits, '_', '.' or '-', "
    "at most 255 characters"
)
POSITION_RULE = "a position is EPOCH-TXID or EPOCH-TXID-CHECKSUM in hexadecimal digits"


@pytest.mark.parametrize("name", ["a", "0", "acme", "a-b", "a--b", "0-0", "x" * 63, "xn--a"])
def test_names_of_orgs_and_apps(name: str) -> None:
    """What the grammar allows comes back as it is, for both."""
    assert (model.check_org(name), model.check_app(name)) == (name, name)


@pytest.mark.parametrize(
    "name",
    ["", "-", "-a", "a-", "A", "a_b", "a.b", "a b", "a/b", "a\n", "\na", "é", "٣", "a\0", "x" * 64],
    ids=repr,
)
def test_what_may_not_name_an_org_or_app(name: str) -> None:
    """Everything else is invalid, and the error states the rule without the name."""
    _invalid(lambda: model.check_org(name), "an org" + TENANT_RULE)
    _invalid(lambda: model.check_app(name), "an app" + TENANT_RULE)


@pytest.mark.parametrize(
    "name", ["A", "_", "a1", "DATABASE_URL", "tls.key", "a-b", "_.-", "x" * 255]
)
def test_names_of_secrets(name: str) -> None:
    """What the grammar allows comes back as it is."""
    assert model.check_secret_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "1A", "-A", ".A", "A B", "A=B", "A\n", "A/B", "A*", "É", "A٣", "A\0", "x" * 256],
    ids=repr,
)
def test_what_may_not_name_a_secret(name: str) -> None:
    """Everything else is invalid, and the error states the rule without the name."""
    _invalid(lambda: model.check_secret_name(name), SECRET_RULE)


@pytest.mark.parametrize("value", ["a", "3d8d9014", "10.0.0.1", "fe80::1", "!+-~", "x" * 255])
def test_attributes_that_a_caveat_could_name(value: str) -> None:
    """Printable ASCII without comma and space comes back as it is."""
    assert model.check_attribute(value, "machine") == value


@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a,b", ",", "a\n", "\t", "\x7f", "é", "a\0", "x" * 256], ids=repr
)
def test_attributes_that_no_caveat_could_name(value: str) -> None:
    """Everything else is invalid, and the error names the attribute, not the value."""
    _invalid(
        lambda: model.check_attribute(value, "machine"),
        "machine must be 1 to 255 printable ASCII characters without comma or space",
    )


def test_an_app_is_written_with_its_org() -> None:
    """ORG/APP is split once and both halves are checked."""
    assert model.split_app("acme/web") == ("acme", "web")
    _invalid(lambda: model.split_app("acme"), "an app is written ORG/APP")
    _invalid(lambda: model.split_app("/web"), "an org" + TENANT_RULE)
    _invalid(lambda: model.split_app("acme/"), "an app" + TENANT_RULE)
    _invalid(lambda: model.split_app("acme/web/x"), "an app" + TENANT_RULE)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("00000000-0000000000000000", Position(0, 0)),
        ("00000001-000000000000002a", Position(1, 42)),
        ("ffffffff-ffffffffffffffff", Position(2**32 - 1, 2**64 - 1)),
        ("00000001-000000000000002a-0000000000000000", Position(1, 42, 0)),
        ("00000001-000000000000002a-8000000000000001", Position(1, 42, 2**63 + 1)),
    ],
)
def test_positions_are_read_as_they_are_written(text: str, position: Position) -> None:
    """Parse and str are inverse, and a checksum of 0 is not an absent one."""
    assert Position.parse(text) == position
    assert str(position) == text


GOOD = "00000001-000000000000002a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        GOOD[1:],
        GOOD[:-1],
        "0" + GOOD,
        GOOD + "0",
        GOOD + "-",
        GOOD + "-0",
        GOOD + "-" + "0" * 15,
        GOOD + "-" + "0" * 17,
        GOOD + "-" + "0" * 16 + "-",
        GOOD.upper(),
        GOOD + "\n",
        " " + GOOD,
        GOOD.replace("-", "_"),
        GOOD.replace("2a", "2g"),
        GOOD.replace("2a", "٢a"),
        GOOD.replace("00000001", "0x000001"),
        GOOD.replace("00000001", "+0000001"),
    ],
    ids=repr,
)
def test_no_other_spelling_is_a_position(text: str) -> None:
    """Widths, case and separators are fixed, and the error does not quote the text."""
    _invalid(lambda: Position.parse(text), POSITION_RULE)


def test_positions_have_no_order() -> None:
    """Which position is later is for the epochs table to say, so `<` is refused."""
    with pytest.raises(TypeError):
        assert Position(1, 1) < Position(1, 2)  # type: ignore[operator]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Position(1, 1).txid = 2  # type: ignore[misc]


def test_keys_of_hosts() -> None:
    """64 lower-case hexadecimal digits, and nothing else."""
    assert model.is_host_key("0123456789abcdef" * 4)
    for text in ("", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "٠" * 64):
        assert not model.is_host_key(text)


def test_kinds_have_their_bytes_and_spellings() -> None:
    """The numbers are in identifiers and the texts in subjects, so both are fixed."""
    assert {kind.value: kind.text for kind in Kind} == {
        1: "operator",
        2: "org",
        3: "deploy",
        4: "read-only",
        5: "host",
        6: "service",
        7: "person",
    }
    assert [Kind.from_text(kind.text) for kind in Kind] == list(Kind)


@pytest.mark.parametrize("text", ["", "OPERATOR", "read_only", "READ_ONLY", "root", "host "])
def test_no_other_text_is_a_kind(text: str) -> None:
    """A kind is spelt in one way, and the error lists the kinds instead of the text."""
    _invalid(
        lambda: Kind.from_text(text),
        "kind must be one of operator, org, deploy, read-only, host, service, person",
    )
