"""How a connection to a node is set up: limits, keepalive, TLS.

Guarantees: nothing leaves this machine in plaintext unless the caller said `insecure=True`; no
proxy of the environment comes between (a token would pass through it); messages and metadata are
bounded. It opens nothing itself: both readers take the options and credentials from here.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

import petsem
from petsem.errors import PetsemError, invalid
from petsem.limits import GRPC_MESSAGE_MAX_BYTES, GRPC_METADATA_MAX_BYTES
from petsem.secretbytes import SecretBytes
from petsem_client.endpoints import Endpoint

FETCH: Final = "/petsem.v1.Secrets/Fetch"
WATCH: Final = "/petsem.v1.Secrets/Watch"
VERIFY: Final = "/petsem.v1.Tokens/Verify"
VERIFY_BATCH: Final = "/petsem.v1.Tokens/VerifyBatch"
WATCH_REVOCATIONS: Final = "/petsem.v1.Tokens/WatchRevocations"
PEM_MAX_BYTES: Final = 1024 * 1024

CHANNEL_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.max_receive_message_length", GRPC_MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", GRPC_MESSAGE_MAX_BYTES),
    ("grpc.max_metadata_size", GRPC_METADATA_MAX_BYTES),
    ("grpc.absolute_max_metadata_size", GRPC_METADATA_MAX_BYTES),
    # A peer that vanished is noticed within 35 s on an idle stream.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Retries are ours alone: gRPC's would hide a failing node from the rotation.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # gRPC's name for the time within which a connection must stand. Its default is 20 s.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.primary_user_agent", f"petsem-client/{petsem.__version__}"),
)

Pem = bytes | str | Path


@dataclass(frozen=True, slots=True)
class Security:
    """What protects a reader's connections. TLS everywhere if anything for it was given."""

    ca: bytes | None = None
    cert: bytes | None = None
    key: SecretBytes | None = None
    insecure: bool = False

    @classmethod
    def of(cls, ca: Pem | None, cert: Pem | None, key: Pem | None, *, insecure: bool) -> Security:
        """Read what was given as paths; `invalid` for combinations that contradict themselves."""
        if insecure and not (ca is None and cert is None and key is None):
            raise invalid("insecure means plaintext; leave it out, or leave ca, cert and key out")
        if (cert is None) != (key is None):
            raise invalid("cert and key belong together; give both or neither")
        private = None if key is None else SecretBytes(_read(key, "key", secret=True))
        return cls(
            ca=None if ca is None else _read(ca, "ca"),
            cert=None if cert is None else _read(cert, "cert"),
            key=private,
            insecure=insecure,
        )

    def credentials(self, endpoint: Endpoint) -> grpc.ChannelCredentials | None:
        """What to connect to `endpoint` with; None: plaintext.

        Without `ca`, a node that is not on this machine must show a certificate of one of the
        public CAs that gRPC brings along.
        """
        given = self.ca is not None or self.cert is not None
        if not given and (self.insecure or endpoint.is_loopback):
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=self.ca,
            private_key=None if self.key is None else self.key.reveal(),
            certificate_chain=self.cert,
        )


def authorization(token: SecretBytes) -> tuple[tuple[str, str], ...]:
    """The call's metadata. The one place where a token becomes readable text again."""
    return (("authorization", "Bearer " + token.reveal().decode("ascii")),)


def _read(given: Pem, what: str, *, secret: bool = False) -> bytes:
    data = given if isinstance(given, bytes) else _read_file(Path(given), what, secret=secret)
    if not (b"-----BEGIN " in data and len(data) <= PEM_MAX_BYTES):
        raise invalid(f"{what} is not PEM; give the PEM as bytes, or the path of a PEM file")
    return data


def _read_file(path: Path, what: str, *, secret: bool) -> bytes:
    try:
        with path.open("rb") as file:
            if secret and stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise invalid(f"others may read the file given as {what}; chmod 600 it")
            return file.read(PEM_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _unreadable(what, error) from None


def _unreadable(what: str, error: Exception) -> PetsemError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else "not a path"
    return invalid(f"the file given as {what} cannot be read: {why}")
