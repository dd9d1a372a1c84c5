"""`petsem join`: a machine becomes a node of a cluster that invited it.

Guarantees: whoever answers is of the cluster that the join token names, or nothing is sent but the
handshake. The node's private key is made here and never leaves. `node.json` is written last, so
the directory counts as a node only once it is whole; until then the file `joining` marks it, and
the same command may be run again: with the same join token it gets the certificate that a lost
answer would have brought. It brings no database: the first `petsem serve` does, from the leader.

KEKs never travel. It says which of them the cluster uses, and which this machine's keyring has.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from petsem import __version__, limits
from petsem.clock import Clock, SystemClock
from petsem.crypto import ca
from petsem.crypto.ca import CertRole, Identity
from petsem.crypto.keyring import Keyring
from petsem.crypto.keys import KEY_ID_BYTES, Purpose
from petsem.errors import Code, PetsemError, conflict, invalid, unavailable
from petsem.secretbytes import SecretBytes
from petsem.server import files
from petsem.server.address import Address
from petsem.server.config import parse_config, render_default
from petsem.server.datadir import DataDir, NodeIdentity, NodeState, check_region
from petsem.server.keyring_source import KeyringSource, load_keyring
from petsem.server.peer.dial import JOIN, ask, peer_channel
from petsem.server.peer.identity import (
    CA_FILE,
    CERTIFICATE_FILE,
    KEY_FILE,
    TlsMaterial,
    is_certificate_of,
)
from petsem.server.peer.join_token import JoinToken, JoinTokenError
from petsem.wire import petsem_pb2 as pb

TIMEOUT_S: Final = 20.0
_CLOCKS_APART_MS: Final = 5 * 60 * 1000


@dataclass(frozen=True, slots=True)
class KekInUse:
    """A KEK that the cluster uses, and whether this machine's keyring has it."""

    purpose: Purpose
    id: bytes
    held: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """What was made, and the KEKs that the node needs to read everything."""

    node_id: str
    cluster_id: bytes
    upstream: Address
    keyring: str
    keks: tuple[KekInUse, ...]


def join_cluster(
    directory: Path,
    text: str,
    *,
    region: str,
    http: Address | None = None,
    grpc: Address | None = None,
    peer: Address | None = None,
    leader: Address | None = None,
    keyring_file: Path | None = None,
    environ: Mapping[str, str],
    clock: Clock | None = None,
) -> Joined:
    """Make the directory of a new replica with the join token `text`.

    `leader` is asked instead of the addresses in the token. Raises `denied` if the cluster does
    not take the token, `unavailable` if nobody of it answers; then it may be called again.
    """
    check_region(region)
    token, shown = _read_token(text, (clock or SystemClock()).unix_ms())
    datadir = DataDir(directory)
    addresses = (leader,) if leader else token.addresses

    def config(upstream: Address) -> bytes:
        return render_default(
            region,
            http=http,
            grpc=grpc,
            peer=peer,
            upstream=upstream,
            keyring_file=None if keyring_file is None else keyring_file.absolute(),
        ).encode()

    draft = parse_config(config(addresses[0]), datadir.path)
    source = KeyringSource.of(datadir, draft.keyring, environ)
    # Before the token is used up: a keyring that cannot be read is to be mended first.
    keyring = _load_keyring(source)
    _prepare(datadir)
    with datadir.lock():
        key = _own_key(datadir)
        request = pb.JoinRequest(
            region=region,
            http=str(draft.http.bind),
            grpc=str(draft.grpc.bind),
            peer=str(draft.peer.bind),
            csr=ca.node_csr(key.reveal()),
            keks=[pb.KekIds(purpose=each.value, ids=keyring.ids(each)) for each in Purpose],
            version=__version__,
        )
        answer, upstream = asyncio.run(_ask_any(addresses, shown, token.cluster_id, request))
        identity = _identity(answer, token, key, region)
        _finish(datadir, identity, answer.certificate, token.ca, config(upstream))
    return Joined(
        identity.node_id, identity.cluster_id, upstream, str(source), _keks(answer, keyring)
    )


def _read_token(text: str, now_ms: int) -> tuple[JoinToken, TlsMaterial]:
    """The token, and what to show on the way; `invalid` for what is no token of one cluster."""
    try:
        token = JoinToken.parse(text)
    except JoinTokenError as error:
        cut = error.rule == "truncated"
        raise invalid(
            "the join token is not whole; copy it again"
            if cut
            else "that is not a join token; 'petsem node invite' on the cluster prints one"
        ) from None
    tls = TlsMaterial(token.key, token.certificate, token.ca)
    try:
        identity = ca.identity_of(token.certificate)
        sound = (
            identity.role is CertRole.JOIN
            and identity.cluster_id == token.cluster_id
            and is_certificate_of(token.certificate, identity, tls)
        )
    except PetsemError:
        sound = False
    if not sound:
        raise invalid("the parts of the join token do not fit together; ask for a new one")
    # The cluster's clock decides; well past the end, this saves a riddle from the handshake.
    if now_ms > ca.validity_of(token.certificate)[1] + _CLOCKS_APART_MS:
        raise PetsemError(Code.DENIED, "the join token has ended; ask for a new one")
    return token, tls


def _load_keyring(source: KeyringSource) -> Keyring:
    """What the keyring holds already; none yet is no mistake."""
    if source.file is not None and not files.present(source.file):
        return Keyring()
    return load_keyring(source)


def _prepare(datadir: DataDir) -> None:
    """Make the directory, or find one that a join which was cut short has left."""
    if files.present(datadir.node_file):
        raise conflict(
            f"{datadir.path} is a node already; run: petsem serve "
            f"{shlex.quote(str(datadir.path))}, or choose another directory"
        )
    if not files.present(datadir.joining):
        datadir.require_empty()
        # First of all, so that whatever comes after it is known for what it is.
        _mark(datadir.joining)
    datadir.make_directories()


def _mark(path: Path) -> None:
    try:
        path.touch(0o600)
        files.SYSTEM.fsync_directory(path.parent)
    except OSError as error:
        raise files.cannot("make", path, error) from error


def _own_key(datadir: DataDir) -> SecretBytes:
    """The node's private key: that of the attempt before, or a new one."""
    files.sweep_temporaries(datadir.tls)
    path = datadir.tls / KEY_FILE
    if not files.present(path):
        files.write_new(path, ca.new_node_key())
    return SecretBytes(files.read_bounded(path, ca.PEM_MAX_BYTES, private=True))


async def _ask_any(
    addresses: Sequence[Address], tls: TlsMaterial, cluster_id: bytes, request: pb.JoinRequest
) -> tuple[pb.JoinResponse, Address]:
    """The first answer, and who gave it."""
    failures = []
    for address in addresses:
        channel = peer_channel(tls, cluster_id, str(address))
        try:
            return await ask(channel, JOIN, request, pb.JoinResponse, timeout_s=TIMEOUT_S), address
        except PetsemError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            failures.append(f"{address}: {error.message}")
        finally:
            await channel.close(None)
    raise unavailable(
        f"no leader took the join token ({'; '.join(failures)}); see that the address is reached "
        "from here and the token has not ended, then run the same command again"
    )


def _identity(
    answer: pb.JoinResponse, token: JoinToken, key: SecretBytes, region: str
) -> NodeIdentity:
    """Who this node is from now on; `corrupt` if the answer is not what was asked for."""
    tls = TlsMaterial(key, answer.certificate, token.ca)
    who = Identity(token.cluster_id, answer.node, CertRole.NODE)
    if answer.cluster != token.cluster_id or not is_certificate_of(answer.certificate, who, tls):
        raise PetsemError(
            Code.CORRUPT,
            "the answer to the join token is not a certificate of this cluster for this machine",
        )
    return NodeIdentity(answer.node, token.cluster_id, region)


def _finish(
    datadir: DataDir, identity: NodeIdentity, certificate: bytes, ca_cert: bytes, config: bytes
) -> None:
    """Everything else in the directory, what makes it a node last."""
    files.write_atomic(datadir.tls / CERTIFICATE_FILE, certificate)
    files.write_atomic(datadir.tls / CA_FILE, ca_cert)
    files.write_atomic(datadir.config_file, config)
    datadir.write_state(NodeState("replica"))
    datadir.write_identity(identity)
    # From here on it says nothing: `node.json` is there.
    with contextlib.suppress(OSError):
        datadir.joining.unlink()


def _keks(answer: pb.JoinResponse, keyring: Keyring) -> tuple[KekInUse, ...]:
    found = []
    for group in answer.keks_in_use:
        with contextlib.suppress(ValueError):
            purpose = Purpose(group.purpose)
            found += [
                KekInUse(purpose, each, keyring.get(purpose, each) is not None)
                for each in group.ids[: limits.KEYRING_MAX_KEYS]
                if len(each) == KEY_ID_BYTES
            ]
    return tuple(found)
