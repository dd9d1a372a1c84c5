"""`petsem.toml`: what is accepted, what each refusal says, and that the documentation agrees."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path

import pytest

from petsem import limits
from petsem.errors import Code, PetsemError
from petsem.replication.retention import Retention
from petsem.server.address import Address
from petsem.server.config import (
    Config,
    GrpcConfig,
    HttpConfig,
    KeyringConfig,
    LimitsConfig,
    LogConfig,
    NodeConfig,
    PeerConfig,
    SsoConfig,
    TlsFiles,
    check_binds,
    load_config,
    parse_config,
    render_default,
)
from petsem.server.config_keys import KEYS, Key
from petsem.server.datadir import DataDir, NodeIdentity

BASE = Path("/var/lib/petsem")
REGION = '[node]\nregion = "ams"\n'
DEFAULTS = Config(
    NodeConfig("ams"),
    HttpConfig(Address("127.0.0.1", 7400), None, (), False, True),
    GrpcConfig(Address("127.0.0.1", 7401), None),
    PeerConfig(Address("127.0.0.1", 7402), None, None),
    KeyringConfig(None, None),
    LimitsConfig(
        write_queue=limits.WRITE_QUEUE_MAX,
        watch_streams=limits.GRPC_STREAMS_MAX,
        grpc_concurrent_rpcs=limits.GRPC_CONCURRENT_RPCS_MAX,
        http_connections=limits.HTTP_CONNECTIONS_MAX,
        http_header_deadline_s=limits.HTTP_HEADER_DEADLINE_S,
        http_body_deadline_s=limits.HTTP_BODY_DEADLINE_S,
        http_keep_alive_s=60,
        drain_s=20,
    ),
    LogConfig("info", "auto", 1024, 168, 64),
    SsoConfig(None),
)


def parse(text: str) -> Config:
    return parse_config(text.encode("utf-8"), BASE)


def refused(text: str) -> str:
    with pytest.raises(PetsemError) as caught:
        parse(text)
    assert caught.value.code is Code.INVALID
    return caught.value.message


def test_a_file_with_only_the_region_has_every_default() -> None:
    """Each default is what the documentation says."""
    assert parse(REGION) == DEFAULTS


def test_every_key_can_be_set() -> None:
    """Paths are resolved against the data directory, and an absolute one is kept."""
    text = """
        [node]
        region = "fra-1"
        [http]
        bind = "[::1]:0"
        cert = "tls/http.pem"
        key = "/etc/http.key"
        client_ca = "ca.pem"
        trusted_proxies = ["10.0.0.0/8", "fd00::/8", "192.0.2.1"]
        open_metrics = true
        open_schema = false
        [grpc]
        bind = "0.0.0.0:9001"
        cert = "g.pem"
        key = "g.key"
        [peer]
        bind = "node-1.internal:9002"
        advertise = "node-1.example:1"
        upstream = "[fd00::1]:7402"
        [keyring]
        command = ["fetch", "--from", "vault"]
        [limits]
        write_queue = 1
        watch_streams = 2
        grpc_concurrent_rpcs = 3
        http_connections = 65536
        http_header_deadline_s = 0.1
        http_body_deadline_s = 3600
        http_keep_alive_s = 1
        drain_s = 3600
        [log]
        level = "debug"
        format = "json"
        transactions_max_mib = 16
        transactions_max_age_h = 8784
        transactions_keep_mib = 0
        [sso]
        url = "https://petsem.example.net/"
    """
    assert parse(text) == Config(
        NodeConfig("fra-1"),
        HttpConfig(
            Address("::1", 0),
            TlsFiles(BASE / "tls/http.pem", Path("/etc/http.key"), BASE / "ca.pem"),
            (
                ipaddress.ip_network("10.0.0.0/8"),
                ipaddress.ip_network("fd00::/8"),
                ipaddress.ip_network("192.0.2.1/32"),
            ),
            True,
            False,
        ),
        GrpcConfig(Address("0.0.0.0", 9001), TlsFiles(BASE / "g.pem", BASE / "g.key", None)),
        PeerConfig(
            Address("node-1.internal", 9002), Address("node-1.example", 1), Address("fd00::1", 7402)
        ),
        KeyringConfig(None, ("fetch", "--from", "vault")),
        LimitsConfig(1, 2, 3, 65_536, 0.1, 3_600.0, 1, 3_600),
        LogConfig("debug", "json", 16, 8_784, 0),
        SsoConfig("https://petsem.example.net"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "[node] region is missing from petsem.toml"),
        ('[nod]\nregion = "a"', "unknown section [nod] of petsem.toml; did you mean node?"),
        (
            REGION + '[http]\nbnd = "x"',
            "unknown key bnd in [http] of petsem.toml; did you mean bind?",
        ),
        (
            REGION + "[peer]\nzzz = 1",
            "unknown key zzz in [peer] of petsem.toml; known are bind, advertise, upstream",
        ),
        (
            REGION + '[peer]\n"s3cr\\net" = 1',
            "unknown key (of an unusual name) in [peer] of petsem.toml; known are bind, advertise, "
            "upstream",
        ),
        ("node = 1", "node in petsem.toml must be a section, written [node]"),
        ("x =", "petsem.toml is not valid TOML at end of document"),
        ('x = "s3cret', "petsem.toml is not valid TOML at end of document"),
        ("[a]\n[a]", "petsem.toml is not valid TOML at line 2, column 3"),
        ("x = " + "[" * 5_000, "petsem.toml is not valid TOML"),
        (
            REGION + '[http]\ncert = "c"',
            "[http] cert and key in petsem.toml are set together or not at all",
        ),
        (
            REGION + '[grpc]\nkey = "k"',
            "[grpc] cert and key in petsem.toml are set together or not at all",
        ),
        (
            REGION + '[grpc]\nclient_ca = "k"',
            "[grpc] client_ca in petsem.toml needs cert and key as well",
        ),
        (
            REGION + '[keyring]\nfile = "k"\ncommand = ["c"]',
            "[keyring] file and command cannot both be set in petsem.toml; keep one",
        ),
        (
            REGION + '[http]\nbind = "127.0.0.1:7401"',
            "[http], [grpc] and [peer] bind in petsem.toml must differ from each other",
        ),
        (
            REGION + "[log]\ntransactions_max_mib = 63",
            "[log] transactions_keep_mib in petsem.toml is more than transactions_max_mib; lower "
            "the one or raise the other",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    """One sentence, with the key, and nothing else of the file in it."""
    assert refused(text) == message


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("node.region", "1", "expected name, 1 to 63 lower-case letters, digits and hyphens"),
        ("http.bind", "1", "expected address, HOST:PORT; port 0 takes any free one"),
        ("peer.advertise", '"x:0"', "expected address, HOST:PORT, no port 0"),
        ("peer.upstream", '"x:0"', "expected address, HOST:PORT, no port 0"),
        ("http.bind", '"s3cret"', "an address is HOST:PORT, such as 127.0.0.1:7400, [::1]:7400"),
        ("http.cert", "1", "expected path, path of a PEM file"),
        ("http.cert", '""', "expected path, path of a PEM file"),
        ("http.cert", '"a\\u0000b"', "expected path, path of a PEM file"),
        ("http.key", '"' + "x" * 4_097 + '"', "expected path"),
        ("http.trusted_proxies", '"10.0.0.0/8"', "expected list of networks, at most 64"),
        ("log.transactions_max_mib", "15", "expected MiB, 16 to 1048576"),
        ("log.transactions_max_mib", "16.0", "expected MiB, 16 to 1048576"),
        ("log.transactions_max_age_h", "0", "expected hours, 1 to 8784"),
        ("log.transactions_max_age_h", "8785", "expected hours, 1 to 8784"),
        ("log.transactions_keep_mib", "true", "expected MiB, 0 to 1048576"),
        ("log.transactions_keep_mib", "1048577", "expected MiB, 0 to 1048576"),
        ("http.trusted_proxies", '["10.0.0.1/8"]', "expected list of networks"),
        ("http.trusted_proxies", "[1]", "expected list of networks"),
        ("http.trusted_proxies", str(["10.0.0.0/8"] * 65), "expected list of networks"),
        ("http.open_metrics", "1", "expected true or false"),
        ("http.open_schema", '"true"', "expected true or false"),
        ("keyring.file", "[]", "expected path, a file of mode 0600"),
        ("keyring.command", '"fetch"', "expected list of words, 1 to 64"),
        ("keyring.command", "[]", "expected list of words, 1 to 64"),
        ("keyring.command", '["a", 1]', "expected list of words, 1 to 64"),
        ("keyring.command", '["a", ""]', "expected list of words, 1 to 64"),
        ("keyring.command", str(["a"] * 65), "expected list of words, 1 to 64"),
        ("limits.write_queue", "0", "expected requests, 1 to 65536"),
        ("limits.write_queue", "65537", "expected requests, 1 to 65536"),
        ("limits.write_queue", "true", "expected requests, 1 to 65536"),
        ("limits.watch_streams", "1.0", "expected streams, 1 to 65536"),
        ("limits.http_connections", '"1"', "expected connections, 1 to 65536"),
        ("limits.http_body_deadline_s", "0.09", "expected seconds, 0.1 to 3600"),
        ("limits.http_body_deadline_s", "3600.1", "expected seconds, 0.1 to 3600"),
        ("limits.http_body_deadline_s", "nan", "expected seconds, 0.1 to 3600"),
        ("limits.http_header_deadline_s", "inf", "expected seconds, 0.1 to 3600"),
        ("limits.http_header_deadline_s", "true", "expected seconds, 0.1 to 3600"),
        ("limits.drain_s", "0", "expected whole seconds, 1 to 3600"),
        ("limits.drain_s", "3601", "expected whole seconds, 1 to 3600"),
        ("limits.http_keep_alive_s", "1.5", "expected whole seconds, 1 to 3600"),
        ("limits.http_keep_alive_s", "true", "expected whole seconds, 1 to 3600"),
        ("log.level", '"INFO"', "expected word, debug, info, warning or error"),
        ("log.format", "[]", "expected word, auto, json or pretty"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_bounds(
    key: str, value: str, expected: str
) -> None:
    """The key and what it accepts are said; the value is not repeated."""
    section, name = key.split(".")
    region = "" if section == "node" else REGION
    message = refused(f"{region}[{section}]\n{name} = {value}")
    assert message.startswith(f"[{section}] {name} in petsem.toml: {expected}")
    assert "s3cret" not in message


def test_bounds_are_inclusive() -> None:
    """As many as the message says."""
    text = REGION + f"[http]\ntrusted_proxies = {['10.0.0.0/8'] * 64}\n"
    assert len(parse(text).http.trusted_proxies) == 64
    text = REGION + f"[keyring]\ncommand = {['a'] * 64}\n"
    assert parse(text).keyring.command == ("a",) * 64
    text = REGION + f'[keyring]\nfile = "/{"x" * 4_095}"\n'
    assert len(str(parse(text).keyring.file)) == 4_096


def test_a_directory_that_is_no_node_has_no_configuration(tmp_path: Path) -> None:
    """The error is the one that says what to run."""
    with pytest.raises(PetsemError, match="run: petsem init"):
        load_config(DataDir(tmp_path))


def test_a_region_out_of_bounds_says_what_a_region_is() -> None:
    """The rule of names is the same as on the command line."""
    assert "a region's name is 1 to 63" in refused('[node]\nregion = "Ams"')


def test_a_node_keeps_its_region(tmp_path: Path) -> None:
    """A region in petsem.toml that is not the node's is refused, not ignored."""
    datadir = DataDir(tmp_path / "node")
    datadir.create()
    datadir.write_identity(NodeIdentity("n", bytes(16), "fra"))
    datadir.config_file.write_text(REGION)
    with pytest.raises(PetsemError, match=r"is not the one in node\.json"):
        load_config(datadir)


def test_a_file_that_is_not_utf8_or_too_large_is_refused(tmp_path: Path) -> None:
    """A configuration is text, and of a sensible size."""
    with pytest.raises(PetsemError, match="is not UTF-8 text"):
        parse_config(b"\xff", BASE)
    datadir = DataDir(tmp_path / "node")
    datadir.create()
    datadir.write_identity(NodeIdentity("n", bytes(16), "ams"))
    with pytest.raises(PetsemError, match="No such file"):
        load_config(datadir)
    datadir.config_file.write_text(REGION)
    assert load_config(datadir).node.region == "ams"
    datadir.config_file.write_text(REGION + "#" * 65_536)
    with pytest.raises(PetsemError, match="is larger than 65,536 bytes"):
        load_config(datadir)


def test_two_free_ports_are_not_the_same_port() -> None:
    """Port 0 may stand in all three."""
    free = '"127.0.0.1:0"'
    text = REGION + f"[http]\nbind = {free}\n[grpc]\nbind = {free}\n[peer]\nbind = {free}"
    assert parse(text).peer.bind == Address("127.0.0.1", 0)


@pytest.mark.parametrize("section", ["http", "grpc"])
def test_plain_text_off_loopback_is_refused_unless_asked_for(section: str) -> None:
    """With `--insecure` it is allowed and says so; with TLS there is nothing to say."""
    text = REGION + f'[{section}]\nbind = "0.0.0.0:8000"\n'
    with pytest.raises(PetsemError) as caught:
        check_binds(parse(text), insecure=False)
    assert caught.value.code is Code.INVALID
    assert caught.value.message == (
        f"[{section}] bind = 0.0.0.0:8000 is reachable from other machines without TLS; set "
        f"[{section}] cert and key, bind to 127.0.0.1, or run with --insecure"
    )
    (warning,) = check_binds(parse(text), insecure=True)
    assert "plain text" in warning
    assert check_binds(parse(text + 'cert = "c"\nkey = "k"'), insecure=False) == ()


def test_the_defaults_and_the_peer_port_need_no_tls_of_their_own() -> None:
    """The peer port is mutual TLS wherever it is bound."""
    assert check_binds(DEFAULTS, insecure=False) == ()
    text = REGION + '[peer]\nbind = "0.0.0.0:7402"'
    assert check_binds(parse(text), insecure=False) == ()


def test_the_file_of_a_new_node_is_the_default_configuration() -> None:
    """What `petsem init` writes means what an empty file would, and the choices made."""
    assert parse(render_default("ams")) == DEFAULTS
    text = render_default(
        "ams",
        http=Address("::1", 1),
        grpc=Address("0.0.0.0", 2),
        peer=Address("h.example", 3),
        keyring_file=Path('/tmp/a "b"\\c\x7f\x01é'),
    )
    found = parse(text)
    assert (found.http.bind, found.grpc.bind) == (Address("::1", 1), Address("0.0.0.0", 2))
    assert found.peer.bind == Address("h.example", 3)
    assert found.keyring.file == Path('/tmp/a "b"\\c\x7f\x01é')


def test_every_commented_line_of_the_new_file_can_be_used() -> None:
    """Uncommenting a key gives valid TOML that is accepted."""
    text = render_default("ams")
    assert max(len(line) for line in text.splitlines()) <= 100
    words = " ".join(text.replace("\n# ", " ").split())
    for key in KEYS:
        bounds = f"{key.unit}, {key.bounds}" if key.bounds else key.unit
        assert f"{key.about.replace('`', '')} ({bounds.replace('`', '')})" in words
        if key.name in ("region", "client_ca"):
            continue
        lines = re.sub(rf"(?m)^# ({key.name} = )", r"\1", text)
        if key.name in ("cert", "key"):
            lines = re.sub(r"(?m)^# ((cert|key) = )", r"\1", text)
        document = tomllib.loads(lines)
        assert key.name in document[key.section]
        parse(lines)


def documented(key: Key) -> str:
    default = f"`{key.default}`" if key.default else "not set"
    bounds = key.bounds or "–"
    return f"| `{key.name}` | {key.unit} | {default} | {bounds} | {key.about} |"


def test_the_documentation_has_each_key_as_it_is() -> None:
    """`docs/configuration.md` is equal to the table in the code, section by section."""
    page = Path(__file__).parents[3] / "docs" / "configuration.md"
    found: dict[str, list[str]] = {}
    section = ""
    for line in page.read_text("utf-8").splitlines():
        heading = re.fullmatch(r"## `\[(\w+)\]`", line)
        if heading:
            section = heading[1]
        elif line.startswith("| `"):
            found.setdefault(section, []).append(line)
    expected: dict[str, list[str]] = {}
    for key in KEYS:
        expected.setdefault(key.section, []).append(documented(key))
    assert found == expected


def test_how_much_of_the_log_is_kept() -> None:
    """In the units that the log counts in; the defaults are those of `limits`."""
    assert parse(REGION).log.retention == Retention()
    text = "[log]\ntransactions_max_mib = 32\ntransactions_max_age_h = 2\ntransactions_keep_mib = 1"
    assert parse(REGION + text).log.retention == Retention(32 * 2**20, 7_200.0, 2**20)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("", "http://127.0.0.1:41000"),
        ('[http]\nbind = "[::1]:0"', "http://[::1]:41000"),
        ('[http]\nbind = "localhost:0"\ncert = "c"\nkey = "k"', "https://localhost:41000"),
        ('[http]\nbind = "0.0.0.0:7400"\ncert = "c"\nkey = "k"', None),
        ('[sso]\nurl = "http://127.0.0.1:7400"', "http://127.0.0.1:7400"),
        ('[http]\nbind = "10.0.0.1:7400"\n[sso]\nurl = "https://p.example"', "https://p.example"),
    ],
)
def test_where_people_reach_the_door(text: str, url: str | None) -> None:
    """What is set, else the bind address where that is on loopback, else nothing."""
    assert parse(REGION + text).public_url(41_000) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://petsem.example.net",
        "https://petsem.example.net/path",
        "https://petsem.example.net/?q",
        "https://petsem.example.net#f",
        "https://a@b@c",
        "https://user@petsem.example.net",
        "https://",
        "ftp://127.0.0.1",
        "https://h:0",
        "https://h:99999",
        "petsem.example.net",
        "https://h h",
    ],
)
def test_a_public_url_is_one_that_browsers_can_be_sent_to(url: str) -> None:
    """https, or http on this machine, with no path."""
    assert refused(f'{REGION}[sso]\nurl = "{url}"').startswith("[sso] url in petsem.toml: ")
