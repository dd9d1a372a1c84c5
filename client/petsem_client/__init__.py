"""The boot client: an app's secrets from the nearest node that can give them.

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
]
