"""Routes of nodes and of the keyring, through the door."""

from __future__ import annotations

from petsem import __version__
from petsem.crypto.ca import identity_of, new_node_key, node_csr
from petsem.crypto.keys import Purpose
from petsem.server.address import Address
from petsem.server.peer.join_token import JoinToken
from petsem.wire.petsem_pb2 import JoinRequest
from tests.unit.server.api.world import APP, SECRETS, Api


async def test_nodes_and_status(api: Api) -> None:
    """The node lists itself, its addresses, and how it is."""
    (node,) = (await api.get("/v1/nodes"))["nodes"]
    assert (node["node"], node["voter"], node["peer"]) == (
        api.node.identity.node_id,
        True,
        "127.0.0.1:7402",
    )
    status = await api.get("/v1/status")
    assert status["cluster"] == api.node.identity.cluster_id.hex()
    (node,) = status["nodes"]
    assert (node["role"], node["ready"], node["version"]) == ("leader", True, __version__)
    assert node["position"] == str(api.node.writer.position)


async def test_inviting_and_removing(api: Api) -> None:
    """An invitation is shown once its peer port is open; a node is removed, but not the leader."""
    early = await api.ask("POST", "/v1/nodes/invite", body={"region": "fra"})
    assert early.error == (503, "unavailable", None)
    api.node.nodes.peer_address = Address("10.0.0.1", 7402)
    invited = await api.done("POST", "/v1/nodes/invite", body={"region": "fra"})
    token = JoinToken.parse(invited["join_token"])
    assert token.addresses == (Address("10.0.0.1", 7402),)
    assert invited.keys() == {"join_token", "expires_at"}
    request = JoinRequest(
        region="fra",
        http="x:1",
        grpc="x:2",
        peer="x:3",
        csr=node_csr(new_node_key()),
    )
    joined = await api.node.nodes.join(identity_of(token.certificate).node_id, request)
    listed = [each["node"] for each in (await api.get("/v1/nodes"))["nodes"]]
    assert sorted(listed) == sorted([api.node.identity.node_id, joined.node])
    gone = await api.done("DELETE", f"/v1/nodes/{joined.node}")
    assert (gone["node"], gone["position"]) == (joined.node, str(api.node.writer.position))
    for node, error in (
        (joined.node, (404, "not_found", None)),
        (api.node.identity.node_id, (409, "conflict", None)),
        ("A", (400, "invalid", None)),
    ):
        assert (await api.ask("DELETE", f"/v1/nodes/{node}")).error == error
    for body in ({}, {"region": "FRA"}, {"region": 1}, {"region": "fra", "x": 1}):
        wrong = await api.ask("POST", "/v1/nodes/invite", body=body)
        assert wrong.error == (400, "invalid", None)


async def test_keks(api: Api) -> None:
    """A new KEK waits, is promoted, takes over the data keys, and the old one is retired."""
    old = api.cluster.kek(Purpose.SECRETS)
    new = api.cluster.add_kek(Purpose.SECRETS)
    listed = {key["id"]: key for key in (await api.get("/v1/keyring"))["keys"]}
    assert (listed[new]["state"], listed[old]["state"], listed[old]["wraps"]) == (
        "waiting",
        "primary",
        1,
    )
    promoted = await api.done("POST", f"/v1/keyring/{new}/promote")
    assert (promoted["state"], promoted["held"]) == ("primary", True)
    again = await api.done("POST", f"/v1/keyring/{new}/promote", body={"force": False})
    assert again["state"] == "primary"
    early = await api.ask("POST", f"/v1/keyring/{old}/retire")
    assert early.error == (409, "conflict", None)
    done = await api.done("POST", "/v1/keyring/rewrap")
    while done["next"] is not None:
        done = await api.done("POST", "/v1/keyring/rewrap", body={"after": done["next"]})
    assert done["remaining"] == 0
    assert (await api.done("POST", f"/v1/keyring/{old}/retire"))["state"] == "retired"
    assert (await api.get(SECRETS + "/values"))["secrets"] == {"A": "alpha", "B": "beta"}


async def test_new_data_keys(api: Api) -> None:
    """An app is sealed again step by step, and reads the same."""
    body = {"org": "acme", "app": "web", "limit": 1}
    steps = 1
    done = await api.done("POST", "/v1/keyring/rotate-data", body=body)
    while done["next"] is not None:
        body["after"] = done["next"]
        done = await api.done("POST", "/v1/keyring/rotate-data", body=body)
        steps += 1
    assert steps > 2
    assert (await api.get(SECRETS + "/values"))["secrets"] == {"A": "alpha", "B": "beta"}
    assert (await api.get(APP + "/versions"))["versions"][0]["version"] == 1


async def test_bad_input(api: Api) -> None:
    """Ids, limits and pages that are none are refused."""
    unknown = await api.ask("POST", f"/v1/keyring/{'0' * 64}/promote")
    assert unknown.error == (404, "not_found", None)
    for path in ("/v1/keyring/x/promote", "/v1/keyring/x/retire"):
        assert (await api.ask("POST", path)).error == (400, "invalid", None)
    for body in ({"limit": 0}, {"limit": 1001}, {"after": "hunter2"}, {"org": "acme"}, {"x": 1}):
        for path in ("/v1/keyring/rewrap", "/v1/keyring/rotate-data"):
            assert (await api.ask("POST", path, body=body)).error == (400, "invalid", None)
    wrong = await api.ask("POST", f"/v1/keyring/{'0' * 64}/promote", body={"force": "yes"})
    assert wrong.error == (400, "invalid", None)
