"""dotenv files: what is read, byte for byte, and what is refused, by line."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from dotenv.parser import parse_stream
from hypothesis import given
from hypothesis import strategies as st

from petsem.cli.batch import check_entries
from petsem.cli.environ_text import to_dotenv
from petsem.cli.import_dotenv import parse_dotenv
from petsem.cli.importing import read_entries
from petsem.errors import Code, PetsemError
from petsem.model import check_secret_name

DEMO = Path(__file__).parents[3] / "ops" / "demo.env"

DEMO_VALUES = {
    "APP_ENV": "production",
    "APP_NAME": "Wayside Bookings",
    "APP_PORT": "8080",
    "APP_DEBUG": "false",
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "%(asctime)s %(levelname)s %(message)s",
    "FEATURE_FLAGS": "new-checkout,dark-mode,eu-vat",
    "SENTRY_DSN": "",
    "PROXY_URL": "",
    "MAINTENANCE_MESSAGE": "",
    "DATABASE_URL": "postgresql://wayside:not-a-real-password@db.internal.example:5432/wayside"
    "?sslmode=verify-full&application_name=web",
    "DATABASE_REPLICA_URL": "postgresql://wayside:p%40ss#word=fake@replica.internal.example:5432"
    "/wayside?options=-c%20statement_timeout%3D5000",
    "REDIS_URL": "redis://:fake#redis=password@cache.internal.example:6379/0",
    "AMQP_URL": 'amqp://guest:it"s-quoted@queue.internal.example/%2Fwayside',
    "WEBHOOK_URL": "https://hooks.example/in?token=fake-token&sig=abc==#fragment",
    "CDN_BASE": "https://cdn.example/assets/#v2",
    "SMTP_HOST": "smtp.example",
    "SMTP_USER": "mailer@wayside.example",
    "SMTP_PASSWORD": '$up3r "fake" \\pass`word`! #1',
    "ADMIN_PASSWORD": 'double "quoted" with a \\ backslash and a \\$dollar',
    "LDAP_BIND_PASSWORD": "equals=in=the=middle==",
    "LEADING_AND_TRAILING_SPACE": "  two spaces on each side  ",
    "TABS_AND_NEWLINES": "column\tcolumn\nsecond line\r\nthird",
    "NOT_EXPANDED": "${HOME}/stays-as-it-is",
    "OAUTH_CLIENT": '{"client_id": "fake-client", "client_secret": "fake=secret#1", '
    '"scopes": ["read", "write"]}',
    "SERVICE_ACCOUNT": '{\n  "type": "service_account",\n  "project": "wayside-example",\n'
    '  "note": "a \'quoted\' \\ backslash, a # and an = sign",\n'
    '  "nested": {"empty": "", "list": [1, 2.5, null, true]}\n}\n',
    "TLS_KEY": "-----BEGIN EXAMPLE KEY-----\n"
    "VGhpcyBpcyBub3QgYSBrZXkuIEl0IGlzIGEgc2VudGVuY2UgdGhhdCB3YXMgd3Jp\n"
    "dHRlbiBmb3IgYSBkZW1vbnN0cmF0aW9uLCBlbmNvZGVkIGFuZCBjdXQgaW50byBs\n"
    "aW5lcy4gSXQgZW5kcyBoZXJlLg==\n-----END EXAMPLE KEY-----\n",
    "SIGNING_KEY": "-----BEGIN EXAMPLE KEY-----\n"
    "QW5vdGhlciBzZW50ZW5jZSB0aGF0IGlzIG5vdCBhIGtleSwgc2lnbmluZyBub3Ro\n"
    "aW5nIGF0IGFsbC4=\n-----END EXAMPLE KEY-----\n",
    "JWT_PUBLIC_KEY": "-----BEGIN EXAMPLE PUBLIC KEY-----\nRXZlbiBsZXNzIG9mIGEga2V5Lg==\n"
    "-----END EXAMPLE PUBLIC KEY-----\n",
    "GREETING": "Grüß Gott, přítel — 你好, สวัสดี 👋🏽",
    "CURRENCY_SIGN": "€",
    "COMPANY_ADDRESS": "Straße des 1. Mai 7\nžižkov, Praha",
    "SESSION_KEY": "bm90LWEtcmVhbC1zZXNzaW9uLWtleS1qdXN0LWJhc2U2NA==",
    "FERNET_KEYS": "ZmFrZS1rZXktb25l,ZmFrZS1rZXktdHdv,ZmFrZS1rZXktdGhyZWU=",
    "ALLOWED_ORIGINS": "https://www.wayside.example,https://admin.wayside.example:8443",
    "CRON_SCHEDULE": "*/15 3-5 * * 1,3,5",
    "REGEX_FILTER": "^/api/v[0-9]+/(users|orders)\\.json$",
    "BINARY_PREFIX": "0x00ff",
}


def read(text: str) -> dict[str, bytes]:
    """The checked entries of a file."""
    return {entry.name: entry.value for entry in check_entries(parse_dotenv(text))}


def refusal(text: str) -> str:
    """The message with which a file is refused."""
    with pytest.raises(PetsemError) as caught:
        read(text)
    assert caught.value.code is Code.INVALID
    return caught.value.message


def test_the_demonstration_file_reads_byte_for_byte() -> None:
    """Each of the 38 variables of ops/demo.env is exactly what its writer meant."""
    entries = read_entries(str(DEMO), None)
    assert {each.name: each.value.decode() for each in entries} == DEMO_VALUES
    assert len(entries) >= 30


def test_the_demonstration_file_survives_being_written_out_again() -> None:
    """What `boot env` prints of it imports as the same bytes."""
    values = {each.name: each.value for each in read_entries(str(DEMO), None)}
    assert read(to_dotenv(values).decode()) == values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", b"b"),
        ("A=b\r\n", b"b"),
        ("  A = b  \n", b"b"),
        ("export A=b", b"b"),
        ("export\tA='b'", b"b"),
        ("A=", b""),
        ("A=''", b""),
        ('A=""', b""),
        ('A=""""""', b""),
        ("A=b # comment", b"b"),
        ("A=b#c", b"b#c"),
        ("A='b # c' # d", b"b # c"),
        ('A="b\nc"', b"b\nc"),
        ("A='b\nc'", b"b\nc"),
        ('A="b\r\nc"', b"b\r\nc"),
        (r'A="\n\r\t\"\\"', b'\n\r\t"\\'),
        (r"A='\n\'\\'", b"\\n'\\"),
        ("A=${B}", b"${B}"),
        ('A="${B}"', b"${B}"),
        ('A="""b"""', b"b"),
        ('A="""\nb\n"""', b"b\n"),
        ('A="""\r\nb"""', b"b"),
        ('A="""\n\nb"""', b"\nb"),
        ('A="""say "hi" now"""', b'say "hi" now'),
        ('A="""{"k": "v"}"""', b'{"k": "v"}'),
        ('A="""ends in "quotes""""', b'ends in "quotes"'),
        ('A="""ends in ""two"""""', b'ends in ""two""'),
        (r'A="""\"""\\"""', b'"""\\'),
        ('A="""a\n# no comment\nB=c\n"""', b"a\n# no comment\nB=c\n"),
        ('export A = """b""" # comment', b"b"),
        ('A=\'"""\'', b'"""'),
        ('A=x"""', b'x"""'),
        ("\ufeffA=b".removeprefix("\ufeff"), b"b"),
        ("A=\x00", b"\x00"),
    ],
)
def test_forms(text: str, value: bytes) -> None:
    """Quotes, escapes, comments and line ends mean what the documentation says."""
    assert read(text) == {"A": value}


def test_a_long_form_inside_quotes_is_content() -> None:
    """A line that looks like an assignment is part of the quoted value it stands in."""
    assert read('A=\'x\nB="""y"""\n\'\nC=z') == {"A": b'x\nB="""y"""\n', "C": b"z"}


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    """Files written on Windows begin with one."""
    file = tmp_path / "a.env"
    file.write_bytes(b"\xef\xbb\xbfA=b\n")
    assert [each.name for each in read_entries(str(file), None)] == ["A"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("A=1\nhunter2\n", 2),
        ("A=1\n\n\n# c\n\nhunter2\n", 6),
        ("A=1\nB='hunter2\nC=3\n", 2),
        ('A=1\nB="hunter2\nC=3\n', 2),
        ('A=1\nB="""hunter2\nC=3\n', 2),
        ("A=1\nB='x' hunter2\n", 2),
        ('A=1\nB="""x""" hunter2\n', 2),
        ("A=1\n=hunter2\n", 2),
        ("A=1\nhunter 2=x\n", 2),
        ("A=1\n2hunter=x\n", 2),
        ('A="x\ny"\nhunter2', 3),
        ('A="""x\r\ny"""\r\nhunter2', 3),
    ],
)
def test_a_bad_line_is_named_by_number_only(text: str, line: int) -> None:
    """The message has the line's number, and nothing that stands on it."""
    message = refusal(text)
    assert f"line {line}" in message.replace(":", "").replace(" has", " has")
    assert "hunter" not in message


def test_a_name_twice_is_refused_with_both_lines() -> None:
    """The later of two equal names does not win in silence."""
    message = refusal("SECRETNAME=1\nB=2\n\nSECRETNAME=3\n")
    assert message == "line 4 has a name that line 1 has already"


def test_every_file_that_python_dotenv_reads_means_the_same_here() -> None:
    """The added form changes no file that the parser reads already."""
    texts = ['A="""', 'A="" "', 'A=""\nB="""x', 'A=x"""y"""', '"""', "A='''x'''", 'A=""""x"""']
    for text in texts:
        theirs = list(parse_stream(io.StringIO(text)))
        if any(each.error or (each.key is not None and each.value is None) for each in theirs):
            continue
        expected = {e.key: e.value.encode() for e in theirs if e.key and e.value is not None}
        assert read(text) == expected


@given(st.text(alphabet=st.sampled_from("AB=\"'\\#\n\r \tx$"), max_size=24))
def test_agreement_with_python_dotenv(text: str) -> None:
    """Whatever it reads without error, and without a name twice, is read as the same here."""
    theirs = [e for e in parse_stream(io.StringIO(text, newline="")) if e.key or e.error]
    names = [each.key for each in theirs]
    if any(e.error or e.value is None for e in theirs) or len(set(names)) != len(names):
        return
    try:
        for name in names:
            check_secret_name(name or "")
    except PetsemError:
        return
    assert read(text) == {each.key: (each.value or "").encode() for each in theirs}


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40),
        min_size=1,
        max_size=4,
    )
)
def test_writing_and_reading_give_the_same_bytes(values: dict[str, str]) -> None:
    """Any UTF-8 value goes through dotenv text and back, in our reader and in python-dotenv's."""
    wanted = {name: value.encode() for name, value in values.items()}
    text = to_dotenv(wanted).decode()
    assert read(text) == wanted
    theirs = parse_stream(io.StringIO(text, newline=""))
    assert {e.key: (e.value or "").encode() for e in theirs if e.key} == wanted
