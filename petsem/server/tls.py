"""TLS for the HTTP and gRPC ports, from the PEM files that `petsem.toml` names.

Guarantees: TLS 1.2 or newer; a private key that others can read is refused; with `client_ca`, a
client without a certificate of it gets no further than the handshake. Files that do not fit
together are refused before anything is done with them, in a sentence that names the file; what was
judged is what is used, whatever happens to the files meanwhile. It does not look at names or dates
in certificates. When the files are read again is up to `live_tls`.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from petsem.errors import PetsemError, invalid
from petsem.secretbytes import SecretBytes
from petsem.server import files
from petsem.server.config import TlsFiles

_PEM_MAX_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class PemFiles:
    """What was in the files of one port."""

    cert: bytes
    key: SecretBytes
    client_ca: bytes | None


def read_pem(tls: TlsFiles) -> PemFiles:
    """The files as they are now; `invalid` for one that is missing, too large or too open."""
    return PemFiles(
        _read(tls.cert),
        SecretBytes(_read(tls.key, private=True)),
        None if tls.client_ca is None else _read(tls.client_ca),
    )


def server_context(tls: TlsFiles, pem: PemFiles) -> ssl.SSLContext:
    """The context that `pem`, read from the files `tls`, makes; `invalid` if it makes none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty password, or OpenSSL would ask for one at the terminal.
        with _as_file(pem.cert) as cert, _as_file(pem.key.reveal()) as key:
            context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise _unfit(tls, error) from None
    if pem.client_ca is not None:
        try:
            with _as_file(pem.client_ca) as authorities:
                context.load_verify_locations(authorities)
        except ssl.SSLError:
            raise invalid(f"{tls.client_ca} holds no certificate in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def grpc_configuration(pem: PemFiles) -> Any:
    """The same for gRPC, which by itself would report what does not fit only when it binds."""
    return grpc.ssl_server_certificate_configuration(
        [(pem.key.reveal(), pem.cert)], root_certificates=pem.client_ca
    )


def _read(path: Path, *, private: bool = False) -> bytes:
    return files.read_bounded(path, _PEM_MAX_BYTES, private=private)


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path for OpenSSL, which reads files only. It is in memory, and this process's alone."""
    fd = os.memfd_create("petsem-pem")
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _unfit(tls: TlsFiles, error: Exception) -> PetsemError:
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return invalid(f"{tls.key} is not the private key of {tls.cert}")
    return invalid(
        f"{tls.cert} and {tls.key} are not a certificate chain and an unencrypted private key in "
        "PEM"
    )
