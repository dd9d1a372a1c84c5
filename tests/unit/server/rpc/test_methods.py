"""The table of methods."""

from __future__ import annotations

import pytest

from petsem.errors import PetsemError
from petsem.server import policy
from petsem.server.rpc.methods import Methods, require_rules
from petsem.wire import petsem_pb2 as pb
from tests.unit.server.rpc.world import World


async def test_the_methods_are_those_of_the_schema_and_of_the_policy(world: World) -> None:
    """No method without a rule, no rule without a method, and the messages of the schema."""
    methods = Methods(world.node)
    schema = {
        f"/{service.full_name}/{method.name}": (
            method.input_type.full_name,
            method.server_streaming,
        )
        for name, service in pb.DESCRIPTOR.services_by_name.items()
        if name in ("Secrets", "Tokens")
        for method in service.methods
    }
    unary = {m.path: (m.request.DESCRIPTOR.full_name, False) for m in methods.unary}
    streams = {m.path: (m.request.DESCRIPTOR.full_name, True) for m in methods.streams}
    assert unary | streams == schema
    assert schema.keys() == policy.RPC.keys()


def test_a_method_without_a_rule_stops_the_start() -> None:
    """It would be a door that nobody guards."""
    with pytest.raises(PetsemError, match=r"no rule for /petsem\.v1\.Secrets/Peek"):
        require_rules(["/petsem.v1.Secrets/Fetch", "/petsem.v1.Secrets/Peek"])
