"""TLS for the HTTP and gRPC ports, from the PEM files that `petsem.toml` names.

Guarantees: TLS 1.2 or newer; a private key that others can read is refused; with `client_ca`, a
client without a certificate of it gets no further than the handshake. Files that do not fit
together are refused before a port is opened, in a sentence that names the file. It does not look
at names or dates in certificates, nor read the files again when they change.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import grpc

from petsem.errors import PetsemError, invalid
from petsem.server import files
from petsem.server.config import TlsFiles

_PEM_MAX_BYTES: Final = 1024 * 1024


def server_context(tls: TlsFiles) -> ssl.SSLContext:
    """The context for uvicorn (its `ssl_context_factory`)."""
    _check_readable(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # An empty password, or OpenSSL would ask for one at the terminal.
        context.load_cert_chain(tls.cert, tls.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise _unfit(tls, error) from None
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except ssl.SSLError:
            raise invalid(f"{tls.client_ca} holds no certificate in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def grpc_credentials(tls: TlsFiles) -> grpc.ServerCredentials:
    """The same for grpc.aio, which itself would report a wrong file only when it binds."""
    server_context(tls)
    pair = (_read(tls.key, private=True), _read(tls.cert))
    authorities = None if tls.client_ca is None else _read(tls.client_ca)
    return grpc.ssl_server_credentials(
        [pair], root_certificates=authorities, require_client_auth=authorities is not None
    )


def _check_readable(tls: TlsFiles) -> None:
    _read(tls.cert)
    _read(tls.key, private=True)
    if tls.client_ca is not None:
        _read(tls.client_ca)


def _read(path: Path, *, private: bool = False) -> bytes:
    return files.read_bounded(path, _PEM_MAX_BYTES, private=private)


def _unfit(tls: TlsFiles, error: Exception) -> PetsemError:
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return invalid(f"{tls.key} is not the private key of {tls.cert}")
    return invalid(
        f"{tls.cert} and {tls.key} are not a certificate chain and an unencrypted private key in "
        "PEM"
    )
