"""Certificates that are replaced under a running node."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from petsem.server.config import TlsFiles
from petsem.server.live_tls import LiveTls, TlsWatch
from tests.unit.server.certificates import Authority, make_authority, make_leaf


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "ca.pem")


@pytest.fixture
def tls(tmp_path: Path, authority: Authority) -> TlsFiles:
    make_leaf(authority, tmp_path / "node.pem", tmp_path / "node.key")
    return TlsFiles(tmp_path / "node.pem", tmp_path / "node.key", None)


def shown(live: LiveTls, trusted: Path, own: tuple[Path, Path] | None = None) -> bytes:
    """The certificate that a new connection is shown, over memory; SSLError if it is refused."""
    client_context = ssl.create_default_context(cafile=str(trusted))
    if own is not None:
        client_context.load_cert_chain(*own)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    server = live.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    server.do_handshake()
    found = client.getpeercert(binary_form=True)
    assert found is not None
    return found


def of(cert: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(cert.read_text())


def renew(authority: Authority, tls: TlsFiles) -> None:
    """A new pair, moved over the old one file by file."""
    new_cert, new_key = tls.cert.with_suffix(".new"), tls.key.with_suffix(".new-key")
    make_leaf(authority, new_cert, new_key)
    new_cert.replace(tls.cert)
    new_key.replace(tls.key)


def looked_at(live: LiveTls, times: int = 2) -> list[dict[str, Any]]:
    """What is logged when somebody looks."""
    with capture_logs() as logged:
        for _ in range(times):
            live.look()
    return list(logged)  # type: ignore[arg-type]


def test_a_new_certificate_is_shown_once_it_rests(authority: Authority, tls: TlsFiles) -> None:
    """Not at the first look, when the other file may still be to come; at the second."""
    live = LiveTls("http", tls)
    context, before = live.context, of(tls.cert)
    renew(authority, tls)
    assert looked_at(live, 1) == []
    assert shown(live, tls.cert.with_name("ca.pem")) == before
    assert looked_at(live, 1) == [
        {"event": "certificate_reloaded", "door": "http", "log_level": "info"}
    ]
    assert shown(live, tls.cert.with_name("ca.pem")) == of(tls.cert) != before
    # Event loops keep the context that they were given first.
    assert type(context) is type(live.context)
    assert looked_at(live, 3) == []


def test_files_that_are_replaced_through_a_link(authority: Authority, tmp_path: Path) -> None:
    """As those do who keep each generation in a directory of its own."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_leaf(authority, tmp_path / name / "c.pem", tmp_path / name / "k.pem")
    link = tmp_path / "live"
    link.symlink_to("one")
    live = LiveTls("grpc", TlsFiles(link / "c.pem", link / "k.pem", None))
    link.with_name("next").symlink_to("two")
    link.with_name("next").replace(link)
    assert [each["event"] for each in looked_at(live)] == ["certificate_reloaded"]
    assert shown(live, tmp_path / "ca.pem") == of(tmp_path / "two" / "c.pem")


@pytest.mark.parametrize("harm", ["rubbish", "missing", "mismatch", "loose"])
def test_what_does_not_fit_keeps_the_old_one(
    authority: Authority, tls: TlsFiles, tmp_path: Path, harm: str
) -> None:
    """It is logged once, with what is wrong and no content, until somebody mends the files."""
    live = LiveTls("http", tls)
    before = of(tls.cert)
    if harm == "rubbish":
        tls.cert.write_bytes(b"s3cret rubbish")
    elif harm == "missing":
        tls.key.unlink()
    elif harm == "mismatch":
        make_leaf(authority, tls.cert, tmp_path / "elsewhere.key")
    else:
        make_leaf(authority, tls.cert, tls.key, mode=0o640)
    (said,) = looked_at(live, 5)
    assert (said["event"], said["log_level"]) == ("certificate_not_reloaded", "warning")
    path = tls.cert if harm == "rubbish" else tls.key
    assert str(path) in said["message"]
    assert "s3cret" not in said["message"]
    assert shown(live, tmp_path / "ca.pem") == before
    if harm == "loose":
        tls.key.chmod(0o600)
    else:
        renew(authority, tls)
    assert [each["event"] for each in looked_at(live)] == ["certificate_reloaded"]
    assert shown(live, tmp_path / "ca.pem") == of(tls.cert)


def test_files_that_were_only_touched_change_nothing(tls: TlsFiles) -> None:
    """Sessions of clients that come again stay good."""
    live = LiveTls("http", tls)
    loaded = live.loaded
    os.utime(tls.cert, (1, 1))
    assert looked_at(live, 3) == []
    assert live.loaded is loaded


def test_another_client_authority_counts_from_the_next_connection(
    authority: Authority, tls: TlsFiles, tmp_path: Path
) -> None:
    """Who has a certificate of the old one stays outside, who has one of the new gets in."""
    pairs = []
    for name in ("old", "new"):
        pairs.append((tmp_path / f"{name}.pem", tmp_path / f"{name}.key"))
        make_leaf(make_authority(tmp_path / f"{name}-ca.pem", name), *pairs[-1])
    clients = tmp_path / "clients.pem"
    clients.write_bytes((tmp_path / "old-ca.pem").read_bytes())
    live = LiveTls("http", TlsFiles(tls.cert, tls.key, clients))
    assert shown(live, tmp_path / "ca.pem", pairs[0]) == of(tls.cert)
    clients.write_bytes((tmp_path / "new-ca.pem").read_bytes())
    assert [each["event"] for each in looked_at(live)] == ["certificate_reloaded"]
    with pytest.raises(ssl.SSLError):
        shown(live, tmp_path / "ca.pem", pairs[0])
    assert shown(live, tmp_path / "ca.pem", pairs[1]) == of(tls.cert)
    clients.write_bytes(b"")
    assert [each["event"] for each in looked_at(live)] == ["certificate_not_reloaded"]
    assert shown(live, tmp_path / "ca.pem", pairs[1]) == of(tls.cert)


async def test_the_watch_looks_until_it_is_stopped() -> None:
    """Again and again, whatever goes wrong; without ports there is nothing to do."""
    looked = asyncio.Event()
    times = 0

    class Port:
        def look(self) -> None:
            nonlocal times
            times += 1
            if times == 1:
                raise RuntimeError("a bug")
            loop.call_soon_threadsafe(looked.set)

    loop = asyncio.get_running_loop()
    watch = TlsWatch([Port()], every_s=0)  # type: ignore[list-item]
    with capture_logs() as logged:
        watch.start()
        await asyncio.wait_for(looked.wait(), 60)
        await watch.stop()
    assert [each["event"] for each in logged] == ["certificates_not_looked_at"]
    idle = TlsWatch([])
    idle.start()
    await idle.stop()
