"""Attacks on the peer port, over real TLS on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from petsem import limits
from petsem.crypto import ca
from petsem.crypto.ca import CertRole
from petsem.errors import PetsemError
from petsem.secretbytes import SecretBytes
from petsem.server.peer.dial import FORWARD, JOIN, RENEW, STREAM, ask, error_of
from petsem.server.peer.handlers import JoinMethod, PeerMethod, PeerStream, Send
from petsem.server.peer.identity import Caller, TlsMaterial
from petsem.server.peer.membership import Member, Members
from petsem.wire import petsem_pb2 as pb
from tests.support.patience import PATIENCE_S
from tests.support.peers import Authority, Port, open_port

CLOSED: Final = "unavailable"
"""Who gets no further than the handshake sees a closed connection."""


async def forward(member: Member, request: pb.ForwardRequest) -> pb.ForwardResponse:
    """Says who asked."""
    return pb.ForwardResponse(status=200, body=f"{member.node_id} in {member.region}".encode())


async def renew(member: Member, request: pb.RenewRequest) -> pb.RenewResponse:
    return pb.RenewResponse(certificate=request.csr)


async def join(invitation: str, request: pb.JoinRequest) -> pb.JoinResponse:
    return pb.JoinResponse(node=invitation)


async def stream(member: Member, asked: AsyncIterator[pb.FromReplica], send: Send) -> None:
    """Echoes TXIDs, in two tasks as a real stream has them."""
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def read() -> None:
        async for message in asked:
            await queue.put(message.ack.durable)
        await queue.put(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        while txid := await queue.get():
            reply = pb.FromLeader(transactions=pb.Transactions(epoch=txid))
            await send(reply.SerializeToString())


METHODS: Final = (
    JoinMethod(JOIN, pb.JoinRequest, join),
    PeerMethod(RENEW, pb.RenewRequest, renew),
    PeerMethod(FORWARD, pb.ForwardRequest, forward),
    PeerStream(STREAM, pb.FromReplica, stream),
)


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[Port]:
    async with open_port(tmp_path / "node", METHODS, check_streams_every_s=0.02) as found:
        yield found


async def answered(port: Port, tls: TlsMaterial) -> str:
    """What Forward answers."""
    reply = await port.ask(tls, FORWARD, pb.ForwardRequest(), pb.ForwardResponse)
    return reply.body.decode()


async def test_a_member_is_answered(port: Port) -> None:
    """By every method for nodes, under the name that its certificate and its row give it."""
    tls = await port.member("fra-1")
    assert await answered(port, tls) == "fra-1 in fra"
    async with port.channel(tls, port.own.node_id) as channel:
        call = channel.stream_stream(STREAM, None, None)(timeout=PATIENCE_S)
        for txid in (7, 8):
            await call.write(pb.FromReplica(ack=pb.Ack(durable=txid)).SerializeToString())
            assert pb.FromLeader.FromString(await call.read()).transactions.epoch == txid
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


# Who gets no further than the handshake


async def _handshake_fails(port: Port, tls: TlsMaterial) -> None:
    for path in (FORWARD, JOIN, RENEW):
        assert (await port.refused(tls, path, pb.RenewRequest()))[0] == CLOSED
    assert (await port.stream_refused(tls, STREAM))[0] == CLOSED


async def test_no_certificate(port: Port) -> None:
    """TLS alone, on loopback too, is not enough."""
    credentials = grpc.ssl_channel_credentials(root_certificates=port.authority.cert)
    name = ("grpc.ssl_target_name_override", ca.dns_name(port.own.cluster_id))
    async with grpc.aio.secure_channel(port.address, credentials, [name]) as channel:
        with pytest.raises(PetsemError) as refused:
            await ask(channel, FORWARD, pb.ForwardRequest(), pb.ForwardResponse, timeout_s=10)
    assert refused.value.code.value == CLOSED


async def test_plain_text(port: Port) -> None:
    """Neither HTTP/2 nor anything else is answered without TLS."""
    async with grpc.aio.insecure_channel(port.address) as channel:
        with pytest.raises(PetsemError) as refused:
            await ask(channel, FORWARD, pb.ForwardRequest(), pb.ForwardResponse, timeout_s=10)
    assert refused.value.code.value == CLOSED
    assert await asyncio.to_thread(_spoken_to, port.server.port, b"GET / HTTP/1.1\r\n\r\n") == b""


def _spoken_to(number: int, said: bytes) -> bytes:
    """What the port says to these bytes beside TLS alerts."""
    with socket.create_connection(("127.0.0.1", number), timeout=PATIENCE_S) as connection:
        connection.sendall(said)
        answer = b""
        try:
            while part := connection.recv(4096):
                answer += part
        except ConnectionResetError:
            pass
    # A TLS record of type alert is 0x15; a gRPC server speaking plain HTTP/2 would send SETTINGS.
    return b"" if answer[:1] == b"\x15" else answer


@pytest.mark.parametrize("role", CertRole)
async def test_another_cluster_s_certificate(port: Port, role: CertRole) -> None:
    """A CA of the same name and cluster id, with another key, is a stranger's."""
    member = await port.member("fra-1")
    stranger = Authority.new(port.own.cluster_id)
    await _handshake_fails(port, stranger.issue("fra-1", role, trusts=port.authority.cert))
    other = Authority.new(bytes(16))
    await _handshake_fails(port, other.issue("fra-1", role, trusts=port.authority.cert))
    assert await answered(port, member) == "fra-1 in fra"


@pytest.mark.parametrize("role", CertRole)
async def test_an_ended_certificate(port: Port, role: CertRole) -> None:
    """Its time over, it opens no connection."""
    await port.member("fra-1")
    await _handshake_fails(port, port.authority.issue("fra-1", role, days=-0.01))


async def test_a_certificate_without_its_key(port: Port) -> None:
    """Certificates are no secret: whoever shows a member's has to prove that he holds its key."""
    member, other = await port.member("fra-1"), await port.member("fra-2")
    await _handshake_fails(port, TlsMaterial(other.key, member.certificate, member.ca))


# Who gets through it and is refused


async def test_a_name_of_another_cluster(port: Port) -> None:
    """Signed by the cluster's own CA, and naming another cluster: of no account."""
    await port.member("fra-1")
    key = SecretBytes(ca.new_node_key())
    certificate = _misnamed(port, key, f"petsem://{'ab' * 16}/node/fra-1")
    tls = TlsMaterial(key, certificate, port.authority.cert)
    refusal = ("unauthenticated", "the certificate is of another cluster than this node")
    assert await port.refused(tls, FORWARD, pb.ForwardRequest()) == refusal
    assert await port.refused(tls, RENEW, pb.RenewRequest()) == refusal
    assert await port.stream_refused(tls, STREAM) == refusal


@pytest.mark.parametrize("uri", ["petsem://{}/leader/fra-1", "spiffe://{}/node/fra-1", ""])
async def test_a_name_of_nobody(port: Port, uri: str) -> None:
    """Signed by the CA, but for something else than nodes."""
    await port.member("fra-1")
    key = SecretBytes(ca.new_node_key())
    certificate = _misnamed(port, key, uri.format(port.own.cluster_id.hex()))
    tls = TlsMaterial(key, certificate, port.authority.cert)
    refusal = ("unauthenticated", "the certificate does not name a node of a cluster")
    assert await port.refused(tls, FORWARD, pb.ForwardRequest()) == refusal
    assert await port.stream_refused(tls, STREAM) == refusal


def _misnamed(port: Port, key: SecretBytes, uri: str) -> bytes:
    """A certificate of the cluster's CA with this URI, which `issue_node` would never write."""
    now = datetime.now(UTC)
    authority = serialization.load_pem_private_key(port.authority.key, None)
    public = serialization.load_pem_private_key(key.reveal(), None).public_key()
    names: list[x509.GeneralName] = [x509.DNSName("x")]
    if uri:
        names.append(x509.UniformResourceIdentifier(uri))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.load_pem_x509_certificate(port.authority.cert).subject)
        .public_key(public)  # type: ignore[arg-type]
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    signed = builder.sign(authority, hashes.SHA256())  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.PEM)


async def test_a_join_certificate_joins_and_no_more(port: Port) -> None:
    """It is refused by every method for nodes, even under the name of a member."""
    await port.member("fra-1")
    for name in ("fra-1", "ab" * 16):
        tls = port.authority.issue(name, CertRole.JOIN)
        refusal = ("denied", "a join certificate is for joining only; this needs a node's")
        assert await port.refused(tls, FORWARD, pb.ForwardRequest()) == refusal
        assert await port.refused(tls, RENEW, pb.RenewRequest()) == refusal
        assert await port.stream_refused(tls, STREAM) == refusal
        assert (await port.ask(tls, JOIN, pb.JoinRequest(), pb.JoinResponse)).node == name


async def test_a_node_does_not_join(port: Port) -> None:
    """Whoever is a member asks for nothing as an invited one would."""
    tls = await port.member("fra-1")
    assert await port.refused(tls, JOIN, pb.JoinRequest()) == (
        "denied",
        "a node's certificate does not join; this node is a member",
    )


async def test_a_node_that_never_was(port: Port) -> None:
    """The CA's word is not enough: the row makes the member."""
    tls = port.authority.issue("fra-9")
    refusal = (
        "denied",
        "fra-9 is not a node of this cluster, or not any more; invite and join it again",
    )
    assert await port.refused(tls, FORWARD, pb.ForwardRequest()) == refusal
    assert await port.refused(tls, RENEW, pb.RenewRequest()) == refusal
    assert await port.stream_refused(tls, STREAM) == refusal


async def test_a_removed_node(port: Port) -> None:
    """Its calls are refused on the connection that it has, and its stream ends; those of others
    go on."""
    gone, stays = await port.member("fra-1"), await port.member("fra-2")
    async with port.channel(gone) as channel, port.channel(stays) as other:
        streams = [
            each.stream_stream(STREAM, None, None)(timeout=PATIENCE_S) for each in (channel, other)
        ]
        for call in streams:
            await _echo(call)
        await port.remove("fra-1")
        with pytest.raises(PetsemError) as refused:
            await ask(channel, FORWARD, pb.ForwardRequest(), pb.ForwardResponse, timeout_s=10)
        assert refused.value.code.value == "denied"
        assert (await asyncio.wait_for(_end(streams[0]), PATIENCE_S))[0] == "denied"
        await _echo(streams[1])
    assert (await port.stream_refused(gone, STREAM))[0] == "denied"


async def test_a_look_that_fails(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong when the members are looked at, the next look ends a removed node's
    stream."""
    tls = await port.member("fra-1")
    real, failed = Members.require, asyncio.Event()

    def failing(self: Members, caller: Caller) -> Member:
        failed.set()
        raise RuntimeError

    async with port.channel(tls) as channel:
        call = channel.stream_stream(STREAM, None, None)(timeout=PATIENCE_S)
        await _echo(call)
        monkeypatch.setattr(Members, "require", failing)
        await asyncio.wait_for(failed.wait(), PATIENCE_S)
        await _echo(call)
        monkeypatch.setattr(Members, "require", real)
        await port.remove("fra-1")
        assert (await asyncio.wait_for(_end(call), PATIENCE_S))[0] == "denied"


async def test_a_certificate_that_ends_meanwhile(port: Port) -> None:
    """TLS looks at the dates once, when a connection begins; the port goes on looking."""
    tls = await port.member("fra-1")
    async with port.channel(tls) as channel:
        call = channel.stream_stream(STREAM, None, None)(timeout=PATIENCE_S)
        await _echo(call)
        port.cluster.clock.advance(24 * 3600 + 1)
        with pytest.raises(PetsemError) as refused:
            await ask(channel, FORWARD, pb.ForwardRequest(), pb.ForwardResponse, timeout_s=10)
        ended = (
            "unauthenticated",
            "the certificate has ended; connect again with the one after it",
        )
        assert (refused.value.code.value, refused.value.message) == ended
        assert await _end(call) == ended


async def test_one_stream_of_a_node(port: Port) -> None:
    """Whoever opens it again ends the one before: half-dead connections do not pile up."""
    tls = await port.member("fra-1")
    async with port.channel(tls) as one, port.channel(tls) as two:
        first = one.stream_stream(STREAM, None, None)(timeout=PATIENCE_S)
        await _echo(first)
        second = two.stream_stream(STREAM, None, None)(timeout=PATIENCE_S)
        await _echo(second)
        code, message = await _end(first)
        assert code == "conflict"
        assert message.startswith("the node has opened this stream again")
        await _echo(second)


async def _echo(call: Any) -> None:
    await call.write(pb.FromReplica(ack=pb.Ack(durable=7)).SerializeToString())
    assert pb.FromLeader.FromString(await call.read()).transactions.epoch == 7


async def _end(call: Any) -> tuple[str, str]:
    """How the other side ends a stream."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as ended:
        error = error_of(ended)
        return error.code.value, error.message
    raise AssertionError("the stream came to its end")


# Too much, and nonsense


async def test_huge_messages(port: Port) -> None:
    """What is over the bound is refused by its length; joining takes far less."""
    tls = await port.member("fra-1")
    huge = bytes(limits.PEER_REQUEST_MAX_BYTES + 1)
    credentials = grpc.ssl_channel_credentials(tls.ca, tls.key.reveal(), tls.certificate)
    options = [
        ("grpc.ssl_target_name_override", ca.dns_name(port.own.cluster_id)),
        ("grpc.max_send_message_length", -1),
    ]
    async with grpc.aio.secure_channel(port.address, credentials, options) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(FORWARD, None, None)(huge, timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in str(caught.value.details())
        call = channel.stream_stream(STREAM, None, None)(timeout=PATIENCE_S)
        await call.write(huge)
        code, message = await _end(call)
        assert code == "limit"
        assert "larger than max" in message
    invited = port.authority.issue("ab" * 16, CertRole.JOIN)
    large = pb.JoinRequest(csr=bytes(limits.JOIN_MESSAGE_MAX_BYTES + 1))
    assert await port.refused(invited, JOIN, large) == (
        "limit",
        "the request is larger than this method takes",
    )
    assert await answered(port, tls) == "fra-1 in fra"


async def test_bytes_that_are_no_message(port: Port) -> None:
    """Called so, and nothing else happens; within a stream too."""
    tls = await port.member("fra-1")
    async with port.channel(tls) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await channel.unary_unary(FORWARD, None, None)(b"\xff", timeout=PATIENCE_S)
        call = channel.stream_stream(STREAM, None, None)(timeout=PATIENCE_S)
        await call.write(b"\xff")
        with pytest.raises(grpc.aio.AioRpcError) as stream:
            await call.read()
    for caught, kind in ((unary, "ForwardRequest"), (stream, "FromReplica")):
        error = error_of(caught.value)
        assert (error.code.value, error.message) == (
            "invalid",
            f"the request is not a petsem.v1.{kind} in protobuf",
        )


async def test_clients_methods_are_not_here(port: Port) -> None:
    """Nor is anything else that was not named."""
    tls = await port.member("fra-1")
    for path in ("/petsem.v1.Secrets/Fetch", "/petsem.v1.Peer/Nothing", "/x"):
        async with port.channel(tls) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path, None, None)(b"", timeout=PATIENCE_S)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# The other way round: who answers


async def test_the_dialler_checks_the_name(port: Port) -> None:
    """Whoever dials a node reaches that node or nobody, whatever address it was given."""
    tls = await port.member("fra-1")
    for node_id, reached in ((port.own.node_id, True), (None, True), ("fra-2", False)):
        async with port.channel(tls, node_id) as channel:
            call = ask(channel, FORWARD, pb.ForwardRequest(), pb.ForwardResponse, timeout_s=10)
            if reached:
                assert (await call).status == 200
            else:
                with pytest.raises(PetsemError) as refused:
                    await call
                assert refused.value.code.value == CLOSED


async def test_a_renewed_certificate_is_shown(port: Port) -> None:
    """From the next connection on, while those that are open go on."""
    tls = await port.member("fra-1")
    async with port.channel(tls) as channel:
        call = channel.stream_stream(STREAM, None, None)(timeout=PATIENCE_S)
        await _echo(call)
        before = await asyncio.to_thread(_shown, port, tls)
        assert before == port.own.tls.certificate
        renewed = ca.issue_node(
            port.authority.cert,
            port.authority.key,
            cluster_id=port.own.cluster_id,
            node_id=port.own.node_id,
            csr_pem=port.own.csr(),
            now_ms=port.cluster.clock.unix_ms(),
            days=90,
        )
        port.own.replace(renewed)
        assert await asyncio.to_thread(_shown, port, tls) == renewed != before
        await _echo(call)
    assert await answered(port, tls) == "fra-1 in fra"


def _shown(port: Port, tls: TlsMaterial) -> bytes:
    """The certificate that the port shows to a new connection, as PEM."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=tls.ca.decode())
    context.set_alpn_protocols(["h2"])
    name = ca.dns_name(port.own.cluster_id)
    raw = socket.create_connection(("127.0.0.1", port.server.port), timeout=PATIENCE_S)
    # Without a certificate of our own: the server's comes before it looks for one.
    with context.wrap_socket(raw, server_hostname=name) as connection:
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


async def test_the_node_stops(port: Port) -> None:
    """Streams are told, and new connections find nobody."""
    tls = await port.member("fra-1")
    async with port.channel(tls) as channel:
        call = channel.stream_stream(STREAM, None, None)(timeout=PATIENCE_S)
        await _echo(call)
        await port.server.stop(5)
        assert await _end(call) == (
            "unavailable",
            "the node is stopping; connect again, or to another node",
        )
    assert (await port.refused(tls, FORWARD, pb.ForwardRequest()))[0] == CLOSED
