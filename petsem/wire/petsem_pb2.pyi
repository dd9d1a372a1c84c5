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
    __slots__ = ("allowed", "token_id", "org", "subject", "expires_at_ms", "reason", "caveat", "message", "freshness")
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    ORG_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CAVEAT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    allowed: bool
    token_id: str
    org: str
    subject: str
    expires_at_ms: int
    reason: str
    caveat: str
    message: str
    freshness: Freshness
    def __init__(self, allowed: _Optional[bool] = ..., token_id: _Optional[str] = ..., org: _Optional[str] = ..., subject: _Optional[str] = ..., expires_at_ms: _Optional[int] = ..., reason: _Optional[str] = ..., caveat: _Optional[str] = ..., message: _Optional[str] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ...) -> None: ...

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
    __slots__ = ("code", "reason", "have", "need", "server_time_ms", "have_version", "need_version")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    NEED_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    HAVE_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEED_VERSION_FIELD_NUMBER: _ClassVar[int]
    code: str
    reason: str
    have: Position
    need: Position
    server_time_ms: int
    have_version: int
    need_version: int
    def __init__(self, code: _Optional[str] = ..., reason: _Optional[str] = ..., have: _Optional[_Union[Position, _Mapping]] = ..., need: _Optional[_Union[Position, _Mapping]] = ..., server_time_ms: _Optional[int] = ..., have_version: _Optional[int] = ..., need_version: _Optional[int] = ...) -> None: ...
