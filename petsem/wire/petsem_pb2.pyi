from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNKNOWN: _ClassVar[Role]
    LEADER: _ClassVar[Role]
    REPLICA: _ClassVar[Role]

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNKNOWN: _ClassVar[Source]
    DISK: _ClassVar[Source]
    UPSTREAM: _ClassVar[Source]
ROLE_UNKNOWN: Role
LEADER: Role
REPLICA: Role
SOURCE_UNKNOWN: Source
DISK: Source
UPSTREAM: Source

class Position(_message.Message):
    __slots__ = ("epoch", "txid", "checksum")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TXID_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    txid: int
    checksum: int
    def __init__(self, epoch: _Optional[int] = ..., txid: _Optional[int] = ..., checksum: _Optional[int] = ...) -> None: ...

class Freshness(_message.Message):
    __slots__ = ("node", "region", "role", "position", "lag_ms", "leader_seen_ms_ago", "source", "server_time_ms", "replicated")
    NODE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LAG_MS_FIELD_NUMBER: _ClassVar[int]
    LEADER_SEEN_MS_AGO_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    REPLICATED_FIELD_NUMBER: _ClassVar[int]
    node: str
    region: str
    role: Role
    position: Position
    lag_ms: int
    leader_seen_ms_ago: int
    source: Source
    server_time_ms: int
    replicated: Position
    def __init__(self, node: _Optional[str] = ..., region: _Optional[str] = ..., role: _Optional[_Union[Role, str]] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., lag_ms: _Optional[int] = ..., leader_seen_ms_ago: _Optional[int] = ..., source: _Optional[_Union[Source, str]] = ..., server_time_ms: _Optional[int] = ..., replicated: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("org", "app", "machine", "version", "min_version", "known_etag", "min_position", "names", "durable")
    ORG_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    KNOWN_ETAG_FIELD_NUMBER: _ClassVar[int]
    MIN_POSITION_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    org: str
    app: str
    machine: str
    version: int
    min_version: int
    known_etag: bytes
    min_position: Position
    names: _containers.RepeatedScalarFieldContainer[str]
    durable: bool
    def __init__(self, org: _Optional[str] = ..., app: _Optional[str] = ..., machine: _Optional[str] = ..., version: _Optional[int] = ..., min_version: _Optional[int] = ..., known_etag: _Optional[bytes] = ..., min_position: _Optional[_Union[Position, _Mapping]] = ..., names: _Optional[_Iterable[str]] = ..., durable: _Optional[bool] = ...) -> None: ...

class Secret(_message.Message):
    __slots__ = ("name", "value", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: bytes
    version: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[bytes] = ..., version: _Optional[int] = ...) -> None: ...

class FetchResponse(_message.Message):
    __slots__ = ("version", "not_modified", "secrets", "freshness", "etag", "filtered")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NOT_MODIFIED_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    FILTERED_FIELD_NUMBER: _ClassVar[int]
    version: int
    not_modified: bool
    secrets: _containers.RepeatedCompositeFieldContainer[Secret]
    freshness: Freshness
    etag: bytes
    filtered: bool
    def __init__(self, version: _Optional[int] = ..., not_modified: _Optional[bool] = ..., secrets: _Optional[_Iterable[_Union[Secret, _Mapping]]] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ..., etag: _Optional[bytes] = ..., filtered: _Optional[bool] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("org", "app", "machine", "after_version")
    ORG_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    org: str
    app: str
    machine: str
    after_version: int
    def __init__(self, org: _Optional[str] = ..., app: _Optional[str] = ..., machine: _Optional[str] = ..., after_version: _Optional[int] = ...) -> None: ...

class AppChanged(_message.Message):
    __slots__ = ("version", "freshness")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    version: int
    freshness: Freshness
    def __init__(self, version: _Optional[int] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("token", "access", "max_staleness_s")
    class AccessEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ACCESS_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_S_FIELD_NUMBER: _ClassVar[int]
    token: str
    access: _containers.ScalarMap[str, str]
    max_staleness_s: int
    def __init__(self, token: _Optional[str] = ..., access: _Optional[_Mapping[str, str]] = ..., max_staleness_s: _Optional[int] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("allowed", "token_id", "org", "subject", "expires_at_ms", "reason", "caveat", "message", "freshness", "discharge_signatures")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CAVEAT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    DISCHARGE_SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    token_id: str
    org: str
    subject: str
    expires_at_ms: int
    reason: str
    caveat: str
    message: str
    freshness: Freshness
    discharge_signatures: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, allowed: _Optional[bool] = ..., token_id: _Optional[str] = ..., org: _Optional[str] = ..., subject: _Optional[str] = ..., expires_at_ms: _Optional[int] = ..., reason: _Optional[str] = ..., caveat: _Optional[str] = ..., message: _Optional[str] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ..., discharge_signatures: _Optional[_Iterable[bytes]] = ...) -> None: ...

class VerifyBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[VerifyRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[VerifyRequest, _Mapping]]] = ...) -> None: ...

class VerifyBatchResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[VerifyResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[VerifyResponse, _Mapping]]] = ...) -> None: ...

class WatchRevocationsRequest(_message.Message):
    __slots__ = ("org", "after")
    ORG_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    org: str
    after: Position
    def __init__(self, org: _Optional[str] = ..., after: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class Revocation(_message.Message):
    __slots__ = ("token_id", "org", "position", "revoked_at_ms", "freshness")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REVOKED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    org: str
    position: Position
    revoked_at_ms: int
    freshness: Freshness
    def __init__(self, token_id: _Optional[str] = ..., org: _Optional[str] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., revoked_at_ms: _Optional[int] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("code", "reason", "have", "need", "server_time_ms", "have_version", "need_version", "caveat", "retry_after_s")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    NEED_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    HAVE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEED_VERSION_FIELD_NUMBER: _ClassVar[int]
    CAVEAT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    code: str
    reason: str
    have: Position
    need: Position
    server_time_ms: int
    have_version: int
    need_version: int
    caveat: str
    retry_after_s: int
    def __init__(self, code: _Optional[str] = ..., reason: _Optional[str] = ..., have: _Optional[_Union[Position, _Mapping]] = ..., need: _Optional[_Union[Position, _Mapping]] = ..., server_time_ms: _Optional[int] = ..., have_version: _Optional[int] = ..., need_version: _Optional[int] = ..., caveat: _Optional[str] = ..., retry_after_s: _Optional[int] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("region", "http", "grpc", "peer", "csr", "keks", "version")
    REGION_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    KEKS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    region: str
    http: str
    grpc: str
    peer: str
    csr: bytes
    keks: _containers.RepeatedCompositeFieldContainer[KekIds]
    version: str
    def __init__(self, region: _Optional[str] = ..., http: _Optional[str] = ..., grpc: _Optional[str] = ..., peer: _Optional[str] = ..., csr: _Optional[bytes] = ..., keks: _Optional[_Iterable[_Union[KekIds, _Mapping]]] = ..., version: _Optional[str] = ...) -> None: ...

class JoinResponse(_message.Message):
    __slots__ = ("cluster", "node", "certificate", "ca", "keks_in_use")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CA_FIELD_NUMBER: _ClassVar[int]
    KEKS_IN_USE_FIELD_NUMBER: _ClassVar[int]
    cluster: bytes
    node: str
    certificate: bytes
    ca: bytes
    keks_in_use: _containers.RepeatedCompositeFieldContainer[KekIds]
    def __init__(self, cluster: _Optional[bytes] = ..., node: _Optional[str] = ..., certificate: _Optional[bytes] = ..., ca: _Optional[bytes] = ..., keks_in_use: _Optional[_Iterable[_Union[KekIds, _Mapping]]] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class ForwardRequest(_message.Message):
    __slots__ = ("method", "path", "query", "headers", "body", "client_ip", "hops", "client_region", "client_host_key")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    CLIENT_IP_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_REGION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_HOST_KEY_FIELD_NUMBER: _ClassVar[int]
    method: str
    path: str
    query: str
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    body: bytes
    client_ip: str
    hops: int
    client_region: str
    client_host_key: str
    def __init__(self, method: _Optional[str] = ..., path: _Optional[str] = ..., query: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., body: _Optional[bytes] = ..., client_ip: _Optional[str] = ..., hops: _Optional[int] = ..., client_region: _Optional[str] = ..., client_host_key: _Optional[str] = ...) -> None: ...

class ForwardResponse(_message.Message):
    __slots__ = ("status", "headers", "body")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    status: int
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    body: bytes
    def __init__(self, status: _Optional[int] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., body: _Optional[bytes] = ...) -> None: ...

class RevokeRequest(_message.Message):
    __slots__ = ("tokens", "node", "hops")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedScalarFieldContainer[bytes]
    node: str
    hops: int
    def __init__(self, tokens: _Optional[_Iterable[bytes]] = ..., node: _Optional[str] = ..., hops: _Optional[int] = ...) -> None: ...

class RevokeResponse(_message.Message):
    __slots__ = ("revoked",)
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    revoked: int
    def __init__(self, revoked: _Optional[int] = ...) -> None: ...

class SeenToken(_message.Message):
    __slots__ = ("token", "at_ms")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    at_ms: int
    def __init__(self, token: _Optional[bytes] = ..., at_ms: _Optional[int] = ...) -> None: ...

class SeenRequest(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: _containers.RepeatedCompositeFieldContainer[SeenToken]
    def __init__(self, tokens: _Optional[_Iterable[_Union[SeenToken, _Mapping]]] = ...) -> None: ...

class SeenResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CompareRequest(_message.Message):
    __slots__ = ("txid",)
    TXID_FIELD_NUMBER: _ClassVar[int]
    txid: int
    def __init__(self, txid: _Optional[int] = ...) -> None: ...

class CompareResponse(_message.Message):
    __slots__ = ("node", "leads", "oldest", "position", "found")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LEADS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    node: str
    leads: bool
    oldest: Position
    position: Position
    found: Position
    def __init__(self, node: _Optional[str] = ..., leads: _Optional[bool] = ..., oldest: _Optional[_Union[Position, _Mapping]] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., found: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...

class KekIds(_message.Message):
    __slots__ = ("purpose", "ids")
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    purpose: str
    ids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, purpose: _Optional[str] = ..., ids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FromReplica(_message.Message):
    __slots__ = ("hello", "ack", "report")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    ack: Ack
    report: NodeReport
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., report: _Optional[_Union[NodeReport, _Mapping]] = ...) -> None: ...

class FromLeader(_message.Message):
    __slots__ = ("welcome", "transactions", "snapshot", "pages", "snapshot_end", "heartbeat", "rollback")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    TRANSACTIONS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_END_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    transactions: Transactions
    snapshot: SnapshotBegin
    pages: SnapshotPages
    snapshot_end: SnapshotEnd
    heartbeat: Heartbeat
    rollback: Rollback
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., transactions: _Optional[_Union[Transactions, _Mapping]] = ..., snapshot: _Optional[_Union[SnapshotBegin, _Mapping]] = ..., pages: _Optional[_Union[SnapshotPages, _Mapping]] = ..., snapshot_end: _Optional[_Union[SnapshotEnd, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., rollback: _Optional[_Union[Rollback, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "cluster", "node", "region", "version", "schema", "keks", "epoch_seen", "position", "resume", "epochs", "asks")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    KEKS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    ASKS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    cluster: bytes
    node: str
    region: str
    version: str
    schema: int
    keks: _containers.RepeatedCompositeFieldContainer[KekIds]
    epoch_seen: int
    position: Position
    resume: SnapshotAt
    epochs: _containers.RepeatedCompositeFieldContainer[Epoch]
    asks: bool
    def __init__(self, protocol: _Optional[int] = ..., cluster: _Optional[bytes] = ..., node: _Optional[str] = ..., region: _Optional[str] = ..., version: _Optional[str] = ..., schema: _Optional[int] = ..., keks: _Optional[_Iterable[_Union[KekIds, _Mapping]]] = ..., epoch_seen: _Optional[int] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., resume: _Optional[_Union[SnapshotAt, _Mapping]] = ..., epochs: _Optional[_Iterable[_Union[Epoch, _Mapping]]] = ..., asks: _Optional[bool] = ...) -> None: ...

class Epoch(_message.Message):
    __slots__ = ("epoch", "first_txid", "leader")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_TXID_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    first_txid: int
    leader: str
    def __init__(self, epoch: _Optional[int] = ..., first_txid: _Optional[int] = ..., leader: _Optional[str] = ...) -> None: ...

class SnapshotAt(_message.Message):
    __slots__ = ("at", "next_page")
    AT_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_FIELD_NUMBER: _ClassVar[int]
    at: Position
    next_page: int
    def __init__(self, at: _Optional[_Union[Position, _Mapping]] = ..., next_page: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("received", "durable", "applied", "epoch")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    received: int
    durable: int
    applied: int
    epoch: int
    def __init__(self, received: _Optional[int] = ..., durable: _Optional[int] = ..., applied: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class NodeReport(_message.Message):
    __slots__ = ("node", "region", "version", "durable", "applied", "lag_ms", "last_error", "keks", "path", "ready", "warnings", "schema", "lost_keks", "source", "age_ms")
    NODE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    LAG_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    KEKS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    LOST_KEKS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    AGE_MS_FIELD_NUMBER: _ClassVar[int]
    node: str
    region: str
    version: str
    durable: Position
    applied: Position
    lag_ms: int
    last_error: str
    keks: _containers.RepeatedCompositeFieldContainer[KekIds]
    path: _containers.RepeatedScalarFieldContainer[str]
    ready: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    schema: int
    lost_keks: _containers.RepeatedCompositeFieldContainer[KekIds]
    source: str
    age_ms: int
    def __init__(self, node: _Optional[str] = ..., region: _Optional[str] = ..., version: _Optional[str] = ..., durable: _Optional[_Union[Position, _Mapping]] = ..., applied: _Optional[_Union[Position, _Mapping]] = ..., lag_ms: _Optional[int] = ..., last_error: _Optional[str] = ..., keks: _Optional[_Iterable[_Union[KekIds, _Mapping]]] = ..., path: _Optional[_Iterable[str]] = ..., ready: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ..., schema: _Optional[int] = ..., lost_keks: _Optional[_Iterable[_Union[KekIds, _Mapping]]] = ..., source: _Optional[str] = ..., age_ms: _Optional[int] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "cluster", "node", "region", "version", "epoch_seen", "path", "leader_http", "leader_grpc", "leader_peer", "position", "epochs")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    LEADER_HTTP_FIELD_NUMBER: _ClassVar[int]
    LEADER_GRPC_FIELD_NUMBER: _ClassVar[int]
    LEADER_PEER_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    cluster: bytes
    node: str
    region: str
    version: str
    epoch_seen: int
    path: _containers.RepeatedScalarFieldContainer[str]
    leader_http: str
    leader_grpc: str
    leader_peer: str
    position: Position
    epochs: _containers.RepeatedCompositeFieldContainer[Epoch]
    def __init__(self, protocol: _Optional[int] = ..., cluster: _Optional[bytes] = ..., node: _Optional[str] = ..., region: _Optional[str] = ..., version: _Optional[str] = ..., epoch_seen: _Optional[int] = ..., path: _Optional[_Iterable[str]] = ..., leader_http: _Optional[str] = ..., leader_grpc: _Optional[str] = ..., leader_peer: _Optional[str] = ..., position: _Optional[_Union[Position, _Mapping]] = ..., epochs: _Optional[_Iterable[_Union[Epoch, _Mapping]]] = ...) -> None: ...

class Transactions(_message.Message):
    __slots__ = ("epoch", "ltx")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LTX_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    ltx: bytes
    def __init__(self, epoch: _Optional[int] = ..., ltx: _Optional[bytes] = ...) -> None: ...

class SnapshotBegin(_message.Message):
    __slots__ = ("at", "pages", "first_page")
    AT_FIELD_NUMBER: _ClassVar[int]
    PAGES_FIELD_NUMBER: _ClassVar[int]
    FIRST_PAGE_FIELD_NUMBER: _ClassVar[int]
    at: Position
    pages: int
    first_page: int
    def __init__(self, at: _Optional[_Union[Position, _Mapping]] = ..., pages: _Optional[int] = ..., first_page: _Optional[int] = ...) -> None: ...

class SnapshotPages(_message.Message):
    __slots__ = ("first_page", "count", "data")
    FIRST_PAGE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    first_page: int
    count: int
    data: bytes
    def __init__(self, first_page: _Optional[int] = ..., count: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class SnapshotEnd(_message.Message):
    __slots__ = ("at", "ltx", "epoch", "more")
    AT_FIELD_NUMBER: _ClassVar[int]
    LTX_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    at: Position
    ltx: bytes
    epoch: int
    more: bool
    def __init__(self, at: _Optional[_Union[Position, _Mapping]] = ..., ltx: _Optional[bytes] = ..., epoch: _Optional[int] = ..., more: _Optional[bool] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("position", "leader_time_ms", "leader_seen_ms_ago", "epoch_seen", "nodes", "replicated", "path", "leader")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LEADER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    LEADER_SEEN_MS_AGO_FIELD_NUMBER: _ClassVar[int]
    EPOCH_SEEN_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    REPLICATED_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    position: Position
    leader_time_ms: int
    leader_seen_ms_ago: int
    epoch_seen: int
    nodes: _containers.RepeatedCompositeFieldContainer[NodeReport]
    replicated: Position
    path: _containers.RepeatedScalarFieldContainer[str]
    leader: str
    def __init__(self, position: _Optional[_Union[Position, _Mapping]] = ..., leader_time_ms: _Optional[int] = ..., leader_seen_ms_ago: _Optional[int] = ..., epoch_seen: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[NodeReport, _Mapping]]] = ..., replicated: _Optional[_Union[Position, _Mapping]] = ..., path: _Optional[_Iterable[str]] = ..., leader: _Optional[str] = ...) -> None: ...

class Rollback(_message.Message):
    __slots__ = ("fork",)
    FORK_FIELD_NUMBER: _ClassVar[int]
    fork: Position
    def __init__(self, fork: _Optional[_Union[Position, _Mapping]] = ...) -> None: ...
