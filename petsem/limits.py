"""Every bound in one place, so that each is checked before anything is allocated for it.

Units are in the names. `docs/architecture.md` says why each has its size.
"""

from typing import Final

# Names
ORG_NAME_MAX_CHARS: Final = 63
SECRET_NAME_MAX_CHARS: Final = 255
MACHINE_MAX_CHARS: Final = 255
LABEL_MAX_CHARS: Final = 128
REGION_MAX_CHARS: Final = 63
IDEMPOTENCY_KEY_MAX_CHARS: Final = 128

# Secrets
VALUE_MAX_BYTES: Final = 64 * 1024
APP_MAX_SECRETS: Final = 1_000
APP_MAX_BYTES: Final = 1024 * 1024
"""Names and values of one app's current version together."""
VERSION_MAX: Final = 2**32 - 1
ENVELOPE_MAX_BYTES: Final = 2 * 1024 * 1024

# Tokens
TOKEN_MAX_BYTES: Final = 6 * 1024
"""A token with all its discharges, as text."""
CAVEATS_MAX: Final = 64
CAVEATS_MINTED_MAX: Final = 56
"""Of those, how many a token may be minted with: clients narrow it by a few before they send it."""
DISCHARGES_MAX: Final = 8
CAVEAT_MAX_BYTES: Final = 2048
TOKEN_CHAIN_MAX: Final = 8
"""Ancestors of a minted token: how often authority may be passed on by minting."""

# Doors
HTTP_BODY_MAX_BYTES: Final = 2 * 1024 * 1024
HTTP_HEADERS_MAX_BYTES: Final = 16 * 1024
HTTP_HEADER_DEADLINE_S: Final = 10.0
HTTP_BODY_DEADLINE_S: Final = 30.0
HTTP_CONNECTIONS_MAX: Final = 2_048
TLS_HANDSHAKE_S: Final = 10.0
GRPC_MESSAGE_MAX_BYTES: Final = 4 * 1024 * 1024
GRPC_METADATA_MAX_BYTES: Final = 16 * 1024
GRPC_CONCURRENT_RPCS_MAX: Final = 4_096
GRPC_STREAMS_MAX: Final = 1_024
"""Watch streams open at once on a node."""
VERIFY_BATCH_MAX: Final = 512
ACCESS_ATTRIBUTES_MAX: Final = 64
PAGE_MAX_ROWS: Final = 500

# Writer
WRITE_QUEUE_MAX: Final = 1_024
GROUP_MAX_REQUESTS: Final = 256
GROUP_MAX_S: Final = 0.002

# Files
BALLAST_BYTES: Final = 16 * 1024 * 1024
FREE_SPACE_RESERVE_BYTES: Final = 8 * 1024 * 1024
KEYRING_MAX_BYTES: Final = 256 * 1024
KEYRING_MAX_KEYS: Final = 256

# Peer port
PEER_REQUEST_MAX_BYTES: Final = 4 * 1024 * 1024
PEER_REPLY_MAX_BYTES: Final = 16 * 1024 * 1024
PEER_CALLS_MAX: Final = 1_024
PEER_CALLS_OF_NODE_MAX: Final = 256
PEER_STREAMS_MAX: Final = 256
PEER_CONNECTIONS_MAX: Final = 512
JOIN_MESSAGE_MAX_BYTES: Final = 64 * 1024
JOIN_TOKEN_MAX_CHARS: Final = 8 * 1024
NODES_MAX: Final = 256

# Replication
LTX_COMMIT_MAX_PAGES: Final = 16_777_216
"""Pages of a database: 64 GiB of pages of 4096 bytes."""
LTX_DECODE_MAX_BYTES: Final = 64 * 1024 * 1024
"""Pages of one LTX file that are unpacked into memory together; longer files are streamed."""
WAL_PAGES_HELD: Final = 1_024
"""Pages of one reading of the WAL that are kept in memory; the rest are read when they are used."""
WAL_READ_FRAMES: Final = 256
"""Frames of the WAL that are read at once."""
LOG_SEGMENT_BYTES: Final = 4 * 1024 * 1024
"""A segment of the transaction log; a longer record has one of its own."""
LOG_MAX_BYTES: Final = 1024 * 1024 * 1024
"""The transaction log; beyond it the oldest goes, whoever still needs it."""
LOG_MAX_AGE_S: Final = 7 * 24 * 3600.0
LOG_KEPT_BYTES: Final = 64 * 1024 * 1024
"""Of the log, kept although nobody needs it: a follower that connects again takes no snapshot."""
LOG_RECORD_READ_MAX_BYTES: Final = 64 * 1024 * 1024
"""Records of the log that are read into memory whole; longer ones are streamed."""
STREAM_HOPS_MAX: Final = 3
"""Nodes between a replica's data and the leader's, the leader counted."""
STREAM_RUN_MAX_PAGES: Final = 1_024
"""Pages of a snapshot that are packed, sent and unpacked together."""
FOLLOW_INBOX_MAX_BYTES: Final = 16 * 1024 * 1024
"""What a replica holds that has arrived and is not stored yet; more stays with the sender."""
FOLLOW_BATCH_MAX_BYTES: Final = 4 * 1024 * 1024
"""Files that a replica makes durable together."""
FORWARDS_MAX: Final = 128
"""Requests of one door that are passed on to another node at once."""
FORWARD_HEADERS_MAX: Final = 32
LOST_REVOCATIONS_MAX: Final = 1_000
SEEN_MAX: Final = 1_000
"""Tokens of which one call, or one transaction a minute, says that they were verified."""
LOST_NAMES_MAX_BYTES: Final = 256 * 1024 * 1024
FORWARD_HOPS_MAX: Final = 3
"""Nodes that a request may pass on its way to the leader."""
STREAM_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""Files that are on their way to one follower, which has not said that it received them."""
STREAM_FILE_MAX_BYTES: Final = 15 * 1024 * 1024
"""One LTX file in the stream. A longer transaction goes as a snapshot."""
STREAM_READ_BYTES: Final = 1024 * 1024
"""Of the log, read at once for one follower."""
STREAM_RANGE_MAX_PAGES: Final = 1_024
"""Pages of the transactions that are made one file for a follower that is behind."""
STREAM_BULK_MAX_PAGES: Final = 8_192
"""The same of what changed during a snapshot, of which only the end counts."""
STREAM_HEARTBEAT_S: Final = 1.0
STREAM_HELLO_DEADLINE_S: Final = 10.0
STREAM_EPOCHS_MAX: Final = 1_024
"""The newest epochs of a branch, as either side names them."""
EPOCH_MAX: Final = 2**32 - 1
EPOCHS_AHEAD_MAX: Final = 2**20
"""How far beyond the epochs that a node knows from its own disk one may be that another node has
merely heard of. One that was begun, as its branch says, may be twice as far: who is promoted goes
beyond all that is heard of."""
EPOCHS_SKIPPED: Final = 1_024
"""By a promotion: an old leader that starts again, cut off, begins the next epoch each time, and
must not come to one that another leader has begun."""
NODE_REPORT_MAX_BYTES: Final = 8 * 1024
FOLLOWER_REMEMBERED_S: Final = 24 * 3600.0
"""How long the log is kept, within its own bounds, for a follower that is away."""
SNAPSHOT_RUN_PAGES: Final = 62
"""Pages of a snapshot that are read, packed and sent between two looks at other work."""
SNAPSHOTS_AT_ONCE: Final = 2
FRAMES_KEPT_MAX: Final = 8
"""Bad files from other nodes that are kept to be looked at."""
SYNC_DATABASE_BYTES: Final = 64 * 1024 * 1024
"""Applied to a replica's database before it is synced; the log holds that much more."""
SYNC_DATABASE_S: Final = 5.0
SNAPSHOT_NOTE_BYTES: Final = 64 * 1024 * 1024
"""Received of a snapshot before what is there is noted, to be gone on with after a crash."""
LOST_MAX_TRANSACTIONS: Final = 1_000
LOST_MAX_S: Final = 60.0
"""What a replica gives up of its own without asking, whichever is reached first."""
