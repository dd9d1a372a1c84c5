"""The clients: an app's secrets from the nearest node that can give them, for machines that boot,
and what a token may do, for API servers.

Guarantees: light (gRPC, protobuf and the standard library; no server code, no cryptographic
library), typed, and careful with what it holds: no token and no secret is in a `repr`, an error or
a log. What it raises is `petsem.errors.PetsemError`, with one of the codes of `Code`.
"""

from __future__ import annotations

from petsem.errors import Code, Detail, PetsemError
from petsem.model import Freshness, Position, Role, Source
from petsem_client.aio import SecretReader
from petsem_client.blocking import SyncSecretReader
from petsem_client.bundle import Bundle
from petsem_client.replies import AppChanged
from petsem_client.sync_token_verifier import SyncTokenVerifier
from petsem_client.token_verifier import TokenVerifier
from petsem_client.verdicts import Verdict, VerdictSource
from petsem_client.verifying import VerifierStats

__all__ = [
    "AppChanged",
    "Bundle",
    "Code",
    "Detail",
    "Freshness",
    "PetsemError",
    "Position",
    "Role",
    "SecretReader",
    "Source",
    "SyncSecretReader",
    "SyncTokenVerifier",
    "TokenVerifier",
    "Verdict",
    "VerdictSource",
    "VerifierStats",
]
