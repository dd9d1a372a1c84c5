"""The part of `petsem check` that asks the leader: has it the same bytes at this position?

Guarantees: it works beside a running node and in its place, since it opens no stream; it shows the
node's own certificate, and asks every member that the database knows, all at once and for a bounded
time. A leader that does not answer, or no longer knows that position, is said and is no problem.
What a leader answers is of its log: that its own database agrees with it, a check there says.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from petsem import limits
from petsem.errors import Code, PetsemError, unavailable
from petsem.model import Position, check_node
from petsem.server.check_files import NodeFiles
from petsem.server.database import ReadPool
from petsem.server.datadir import DataDir
from petsem.server.findings import Findings, Result
from petsem.server.peer.dial import COMPARE, ask, peer_channel
from petsem.server.peer.identity import OwnCertificate
from petsem.server.replica.candidates import Candidate, candidates
from petsem.wire import petsem_pb2 as pb
from petsem.wire.errors import position_from_protobuf

WITHIN_S: Final = 10.0
NAME: Final = "database and leader"


@dataclasses.dataclass(frozen=True, slots=True)
class LeaderSays:
    """A leader's answer. `oldest` and `end` are those of its log; `found` is what it has at the
    transaction that was asked for, None if it does not know."""

    node_id: str
    oldest: Position
    end: Position
    found: Position | None


Ask = Callable[[OwnCertificate, Sequence[Candidate], int], LeaderSays]
"""From the members and a TXID to the leader's answer; `PetsemError` if there is none."""


def check_leader(
    datadir: DataDir, copy: Path, node: NodeFiles, at: Position, ask: Ask, findings: Findings
) -> None:
    """The pages of a replica's database, which is `at` with that checksum, against what the leader
    has there. `copy` says who the members are."""
    if node.identity is None:
        return
    upstream = None if node.config is None else node.config.peer.upstream
    with closing(ReadPool(copy)) as pool:
        known = candidates(pool, node.identity, upstream, None, most=limits.NODES_MAX)
    # An address without a name is no member's.
    members = [each for each in known if each.node_id is not None]
    try:
        said = ask(OwnCertificate(datadir, node.identity), members, at.txid)
    except PetsemError as e:
        findings.add(NAME, Result.SKIPPED, f"not compared with the leader: {e.message}")
        return
    findings.add(NAME, *judged(at, said))


def judged(at: Position, said: LeaderSays) -> tuple[Result, str]:
    """What the leader's answer means for a database that is `at`."""
    here = dataclasses.replace(at, checksum=None)
    found, leader = said.found, f"the leader {said.node_id}"
    if said.end.epoch < at.epoch:
        return Result.SKIPPED, (
            f"not compared: {said.node_id} leads in epoch {said.end.epoch}, and this node's data "
            f"is of epoch {at.epoch}, whose leader did not answer"
        )
    if (found is not None and found.epoch != at.epoch) or said.end.txid < at.txid:
        return Result.PROBLEM, (
            f"the database is at {here}, and {leader} is at {said.end} on another branch; while it "
            "runs the node saves its own under lost/ and follows, or asks: see 'petsem status'"
        )
    if found is not None and found.checksum == at.checksum:
        return Result.OK, f"every page is what {leader} has at {found}"
    if found is not None:
        return Result.PROBLEM, (
            f"the pages of the database at {here} are not those that {leader} has there: stop the "
            "node, delete the file 'checksums' in its directory if it is there, and start it; it "
            "finds the pages and takes them from another node"
        )
    if at.txid < said.oldest.txid:
        return Result.SKIPPED, (
            f"not compared: {leader} no longer knows {here}, since its log begins at "
            f"{said.oldest}; check again when the node has caught up"
        )
    return Result.SKIPPED, (
        f"not compared: {here} lies within one file of the log of {leader}; check again when the "
        "node has caught up"
    )


def ask_members(certificate: OwnCertificate, members: Sequence[Candidate], txid: int) -> LeaderSays:
    """The answer of the member that leads, in the newest epoch if several say so. Not in an event
    loop: it runs one."""
    return asyncio.run(_ask_all(certificate, members, txid))


async def _ask_all(
    certificate: OwnCertificate, members: Sequence[Candidate], txid: int
) -> LeaderSays:
    if not members:
        raise unavailable("no other node is known")
    asked = [_answer_of(certificate, member, txid) for member in members]
    answers = await asyncio.gather(*asked)
    leaders = [each for each in answers if isinstance(each, LeaderSays)]
    if leaders:
        return max(leaders, key=lambda each: (each.end.epoch, each.end.txid))
    refusals = [each for each in answers if isinstance(each, PetsemError)]
    if not refusals:
        raise unavailable("no node that answered leads")
    # Who was refused can do something about it; that a node is not there is known already.
    raise min(refusals, key=lambda each: each.code is Code.UNAVAILABLE)


async def _answer_of(
    certificate: OwnCertificate, member: Candidate, txid: int
) -> LeaderSays | PetsemError | None:
    """The member's answer, or its refusal; None if it does not lead."""
    tls, cluster_id = certificate.tls, certificate.cluster_id
    channel = peer_channel(tls, cluster_id, member.address, member.node_id)
    try:
        request = pb.CompareRequest(txid=txid)
        reply = await ask(channel, COMPARE, request, pb.CompareResponse, timeout_s=WITHIN_S)
        return _understood(reply, txid) if reply.leads else None
    except PetsemError as e:
        return e
    finally:
        await channel.close(None)


def _understood(reply: pb.CompareResponse, txid: int) -> LeaderSays:
    found = position_from_protobuf(reply.found) if reply.HasField("found") else None
    says_where = reply.HasField("oldest") and reply.HasField("position")
    is_asked_for = found is None or (found.txid == txid and found.checksum is not None)
    if not (says_where and is_asked_for):
        raise unavailable("the leader's answer is not to what it was asked")
    oldest, end = position_from_protobuf(reply.oldest), position_from_protobuf(reply.position)
    return LeaderSays(check_node(reply.node), oldest, end, found)
