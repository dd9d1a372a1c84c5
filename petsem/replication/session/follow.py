"""The follower's side of the stream: what whoever it follows may say, and when.

Guarantees: after `receive` returned, the message was due, its sizes are within `limits`, and what
it claims continues what was claimed before: the next TXID, the checksum that the last file left,
an epoch that does not fall, the next page. Otherwise `Broken` names the rule, and nothing more may
be said on this stream.

It opens no LTX file beyond header and trailer and computes no checksum: whoever stores the pages
does. It knows no sockets, files or clocks.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from petsem import limits
from petsem.model import Position
from petsem.replication.image import LOCK_PAGE, PAGE_SIZE
from petsem.replication.ltx import HEADER_BYTES, TRAILER_BYTES, Header, LtxError, Trailer
from petsem.replication.session.branch import is_likely, was_begun
from petsem.replication.session.from_leader import (
    Heartbeat,
    Message,
    Rollback,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPages,
    Transactions,
    Welcome,
)

PROTOCOL: Final = 1


class Rule(enum.StrEnum):
    """What was broken; the text is for people."""

    GARBAGE = "it sends what is no message of the stream"
    ORDER = "it says something that is not due"
    PROTOCOL = "it speaks another version of the stream"
    CLUSTER = "it is of another cluster"
    PATH = "its way to the leader makes no sense"
    LOOP = "it follows this node itself"
    TOO_FAR = "it is too far from the leader"
    OLD_EPOCH = "it follows a leader that is none any more"
    EPOCH = "it names an epoch that no cluster comes to"
    SIZE = "it announces more than there may be"
    HEADER = "it sends a file whose header makes no sense"
    WENT_BACK = "it goes back to an earlier epoch"
    REPEATED = "it repeats transactions"
    SKIPPED = "it skips transactions"
    CHECKSUM = "its checksums do not continue each other"
    PAGES = "its pages are not those that are due"


_UNFIT: Final = frozenset({Rule.PROTOCOL, Rule.LOOP, Rule.TOO_FAR, Rule.OLD_EPOCH})


class Broken(ValueError):  # noqa: N818 (a rule of the stream is; see `rule`)
    """A rule does not hold. `lie`: no honest node says so; otherwise it is merely no node to
    follow now."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule.value)
        self.rule = rule
        self.lie = rule not in _UNFIT


@dataclass(frozen=True, slots=True)
class Own:
    """What the follower said in its hello. `resume` is the snapshot that was interrupted, with
    the next page it needs. `epoch_known` is the newest epoch on its own disk."""

    node_id: str
    cluster_id: bytes
    position: Position | None
    epoch_seen: int
    resume: tuple[Position, int] | None = None
    epoch_known: int = 0


class OtherLeader(Exception):  # noqa: N818 (no error)
    """The branch goes on under another leader: hello is to be said anew, and the welcome heard."""


class _State(enum.Enum):
    NEW = enum.auto()
    FOLLOWING = enum.auto()
    SNAPSHOT = enum.auto()
    SNAPSHOT_END = enum.auto()
    ENDED = enum.auto()


# What is due in each state; in ENDED nothing is.
_DUE: Final[dict[_State, tuple[type[Message], ...]]] = {
    _State.NEW: (Welcome,),
    _State.FOLLOWING: (Transactions, Heartbeat, SnapshotBegin, Rollback),
    _State.SNAPSHOT: (SnapshotPages, Heartbeat, SnapshotEnd),
    _State.SNAPSHOT_END: (Heartbeat, SnapshotEnd),
    _State.ENDED: (),
}


class FollowSession:
    """One stream. `position`: where the follower is once it has stored what was received. `path`:
    node ids from the other node to the leader, as last heard."""

    def __init__(self, own: Own) -> None:
        self._own = own
        self._state = _State.NEW
        self._snapshot = SnapshotBegin(Position(0, 0), 0, 0)
        self._next_page = 0
        self._staged: Position | None = None
        self.position = own.position
        self.epoch_seen = own.epoch_seen
        self._epoch_known = own.epoch_known
        self.path: tuple[str, ...] = ()
        self._leader = ""

    def receive(self, message: Message) -> None:
        """Take the next message; `Broken` if it may not be, `OtherLeader` if the stream ends
        well with it."""
        try:
            _require(isinstance(message, _DUE[self._state]), Rule.ORDER)
            match message:
                case Transactions():
                    self.position = self._extended(self.position, message.epoch, message.ltx)
                case Heartbeat():
                    self._heartbeat(message)
                case SnapshotPages():
                    self._pages(message)
                case Welcome():
                    self._welcomed(message)
                case SnapshotBegin():
                    self._begin(message)
                case SnapshotEnd():
                    self._end(message)
                case Rollback():
                    _require(self.position is not None, Rule.ORDER)
                    self._state = _State.ENDED
        except (Broken, OtherLeader):
            self._state = _State.ENDED
            raise

    def _welcomed(self, said: Welcome) -> None:
        own = self._own
        _require(said.protocol == PROTOCOL, Rule.PROTOCOL)
        _require(said.cluster_id == own.cluster_id, Rule.CLUSTER)
        _require(own.node_id != said.node_id, Rule.LOOP)
        self._goes(said.path, said.node_id)
        if said.leads is not None:
            _require(was_begun(said.leads[0], self._epoch_known), Rule.EPOCH)
            self._epoch_known = max(self._epoch_known, said.leads[0])
        _require(is_likely(said.epoch_seen, self._epoch_known), Rule.EPOCH)
        _require(said.epoch_seen >= own.epoch_seen, Rule.OLD_EPOCH)
        self.epoch_seen = said.epoch_seen
        self._leader = "" if said.leads is None else said.leads[1]
        self._state = _State.FOLLOWING

    def _heartbeat(self, said: Heartbeat) -> None:
        _require(said.epoch_seen >= self.epoch_seen, Rule.WENT_BACK)
        _require(is_likely(said.epoch_seen, self._epoch_known), Rule.EPOCH)
        if said.path:
            self._goes(said.path, self.path[0])
        self.epoch_seen = said.epoch_seen
        if said.leader not in ("", self._leader):
            raise OtherLeader

    def _goes(self, path: tuple[str, ...], node_id: str) -> None:
        """This is the way to the leader over `node_id`."""
        _require(self._own.node_id not in path, Rule.LOOP)
        _require(path[:1] == (node_id,) and len(set(path)) == len(path), Rule.PATH)
        _require(len(path) <= limits.STREAM_HOPS_MAX, Rule.TOO_FAR)
        self.path = path

    def _extended(self, at: Position | None, epoch: int, ltx: bytes) -> Position:
        """Where the follower is after a file that must continue `at`."""
        _require(at is not None, Rule.ORDER)
        assert at is not None
        _require(len(ltx) >= HEADER_BYTES + TRAILER_BYTES, Rule.HEADER)
        try:
            header = Header.parse(ltx[:HEADER_BYTES])
            trailer = Trailer.parse(ltx[-TRAILER_BYTES:])
            trailer.validate(header)
        except LtxError:
            raise Broken(Rule.HEADER) from None
        _require(header.page_size == PAGE_SIZE and header.tracks_checksum, Rule.HEADER)
        _require(epoch >= at.epoch, Rule.WENT_BACK)
        _require(was_begun(epoch, self._epoch_known), Rule.EPOCH)
        _require(header.min_txid > at.txid, Rule.REPEATED)
        _require(header.min_txid == at.txid + 1, Rule.SKIPPED)
        _require(header.pre_apply_checksum == at.checksum, Rule.CHECKSUM)
        return Position(epoch, header.max_txid, trailer.post_apply_checksum)

    def _begin(self, said: SnapshotBegin) -> None:
        _require(said.at.checksum is not None and said.at.txid > 0, Rule.HEADER)
        _require(was_begun(said.at.epoch, self._epoch_known), Rule.EPOCH)
        _require(0 < said.pages <= limits.LTX_COMMIT_MAX_PAGES, Rule.SIZE)
        resumed = said.first_page > 1 and self._own.resume == (said.at, said.first_page)
        _require(said.first_page == 1 or resumed, Rule.PAGES)
        _require(said.first_page <= said.pages + 1, Rule.PAGES)
        self._snapshot, self._next_page, self._staged = said, said.first_page, said.at
        self._state = _State.SNAPSHOT

    def _pages(self, said: SnapshotPages) -> None:
        _require(0 < said.count <= limits.STREAM_RUN_MAX_PAGES, Rule.SIZE)
        _require(said.first_page == self._next_page, Rule.PAGES)
        last = said.first_page + said.count - 1
        _require(last <= self._snapshot.pages, Rule.PAGES)
        _require(not said.first_page <= LOCK_PAGE <= last, Rule.PAGES)
        # What LZ4 will allocate, in the block's own words.
        size = int.from_bytes(said.block[:4], "little")
        _require(len(said.block) > 4 and size == said.count * PAGE_SIZE, Rule.SIZE)
        self._next_page = last + 1 + (last + 1 == LOCK_PAGE)

    def _end(self, said: SnapshotEnd) -> None:
        _require(self._next_page > self._snapshot.pages, Rule.PAGES)
        if said.ltx:
            self._staged = self._extended(self._staged, said.at.epoch, said.ltx)
        _require(self._staged == said.at, Rule.CHECKSUM)
        if said.more:
            _require(bool(said.ltx), Rule.ORDER)
            self._state = _State.SNAPSHOT_END
        else:
            self.position = self._staged
            self._state = _State.FOLLOWING


def _require(holds: bool, rule: Rule) -> None:
    if not holds:
        raise Broken(rule)
