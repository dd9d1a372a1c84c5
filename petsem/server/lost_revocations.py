"""Revocations of a lost branch, made again on the branch that is left.

Guarantees: a token that this node had revoked, and whose revocation was given up with its branch,
is revoked again as soon as the leader can be asked, also after a restart; the branch is marked with
`revoked-again` only when the leader has it and, if one follows him, another node too. Such a call
only takes away: it names tokens, and can end them and nothing else. Of what else was lost,
`names.json` is the list; that is for people.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
import structlog

from petsem import limits
from petsem.errors import PetsemError, invalid, unavailable
from petsem.model import Role, check_node
from petsem.server import files
from petsem.server.cluster_view import ClusterView
from petsem.server.datadir import DataDir, NodeIdentity
from petsem.server.peer.dial import REVOKE
from petsem.server.peer.handlers import PeerMethod
from petsem.server.peer.membership import Member
from petsem.server.replica.lost import NAMES
from petsem.server.replica.upstream import Upstream
from petsem.server.service.tokens import Tokens
from petsem.wire import petsem_pb2 as pb

log = structlog.get_logger(__name__)

MARK: Final = "revoked-again"
_NONCE_BYTES: Final = 16
_ANSWER_WITHIN_S: Final = 10.0
_AGAIN_S: Final = 5.0


class _Revocation(msgspec.Struct, frozen=True):
    nonce: str


class _Names(msgspec.Struct, frozen=True):
    """What matters here of a branch's `names.json`."""

    revocations: list[_Revocation] = []
    unreadable: bool = False


class LostRevocations:
    """Makes this node's own again, and those of whoever follows it."""

    def __init__(
        self,
        *,
        datadir: DataDir,
        identity: NodeIdentity,
        view: ClusterView,
        upstream: Upstream,
        tokens: Tokens,
        helper: ThreadPoolExecutor,
    ) -> None:
        self._datadir = datadir
        self._identity = identity
        self._view = view
        self._upstream = upstream
        self._tokens = tokens
        self._helper = helper
        self._unreadable: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.method = PeerMethod(REVOKE, pb.RevokeRequest, self._answer)

    def start(self) -> None:
        """Begin with what an earlier run has left."""
        self._task = asyncio.create_task(self._run(), name="lost-revocations")

    async def stop(self) -> None:
        """Leave the rest to the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def look(self) -> None:
        """Call it when a branch was lost."""
        self._wake.set()

    async def _answer(self, member: Member, request: pb.RevokeRequest) -> pb.RevokeResponse:
        if len(request.tokens) > limits.LOST_REVOCATIONS_MAX or any(
            len(nonce) != _NONCE_BYTES for nonce in request.tokens
        ):
            raise invalid("a call revokes at most 1,000 tokens, by their ids of 16 bytes")
        # Whoever asks for himself is who his certificate says; his name goes into the rows.
        request.node = check_node(request.node) if request.hops else member.node_id
        return pb.RevokeResponse(revoked=await self._revoke(request))

    async def _revoke(self, request: pb.RevokeRequest) -> int:
        if self._view.role is Role.LEADER:
            return await self._tokens.revoke_lost(request.tokens, request.node)
        if request.hops >= limits.FORWARD_HOPS_MAX:
            raise unavailable("the request has passed as many nodes as it may; ask the leader")
        passed = pb.RevokeRequest(tokens=request.tokens, node=request.node, hops=request.hops + 1)
        reply = await self._upstream.ask(REVOKE, passed, pb.RevokeResponse, _ANSWER_WITHIN_S)
        return reply.revoked

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            waits = False
            for branch in await loop.run_in_executor(self._helper, self._unmarked):
                try:
                    await self._make_again(branch)
                except PetsemError as e:
                    # Nobody leads, perhaps, or nobody can be reached; the others are tried all the
                    # same.
                    waits = True
                    log.info("lost_revocations_wait", branch=branch.name, message=e.message)
                except Exception as e:
                    waits = True
                    log.error("lost_revocations_failed", branch=branch.name, exc_info=e)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S if waits else None):
                    await self._wake.wait()

    async def _make_again(self, branch: Path) -> None:
        loop = asyncio.get_running_loop()
        nonces = await loop.run_in_executor(self._helper, _read, branch / NAMES)
        if nonces is None:
            self._unreadable.add(branch.name)
            log.error(
                "lost_revocations_unknown",
                branch=branch.name,
                message="what this branch had revoked cannot be read from its list; revoke again "
                "by hand what you know of",
            )
            return
        revoked = 0
        for start in range(0, len(nonces), limits.LOST_REVOCATIONS_MAX):
            some = nonces[start : start + limits.LOST_REVOCATIONS_MAX]
            request = pb.RevokeRequest(tokens=some, node=self._identity.node_id)
            revoked += await self._revoke(request)
        await loop.run_in_executor(self._helper, files.write_atomic, branch / MARK, b"")
        if nonces:
            log.warning(
                "lost_revocations_made_again", branch=branch.name, count=len(nonces), live=revoked
            )

    def _unmarked(self) -> list[Path]:
        """Branches that are saved and not marked, on the helper thread."""
        try:
            found = sorted(self._datadir.lost.iterdir())
        except OSError:
            return []
        return [
            branch
            for branch in found
            if (branch / NAMES).exists()
            and branch.name not in self._unreadable
            and not (branch / MARK).exists()
        ]


def _read(path: Path) -> Sequence[bytes] | None:
    """The tokens that a branch had revoked; None if nobody can say."""
    try:
        raw = files.read_bounded(path, limits.LOST_NAMES_MAX_BYTES)
        names = msgspec.json.decode(raw, type=_Names)
        nonces = [bytes.fromhex(each.nonce) for each in names.revocations]
    except (PetsemError, ValueError):
        return None
    sound = all(len(nonce) == _NONCE_BYTES for nonce in nonces)
    return nonces if sound and not names.unreadable else None
