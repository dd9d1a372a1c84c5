"""Endpoints: what is accepted as one, and whom a call asks first."""

from __future__ import annotations

import random

import pytest

from petsem.errors import Code, PetsemError
from petsem_client.endpoints import (
    ENDPOINTS_MAX,
    PROBE_S,
    REST_MAX_S,
    REST_MIN_S,
    Endpoint,
    Rotation,
    parse_endpoints,
)
from tests.unit.client.far_end import token


@pytest.mark.parametrize(
    ("text", "target", "loopback"),
    [
        ("127.0.0.1:7401", "ipv4:127.0.0.1:7401", True),
        ("127.8.9.1:1", "ipv4:127.8.9.1:1", True),
        ("10.1.2.3:65535", "ipv4:10.1.2.3:65535", False),
        ("[::1]:7401", "ipv6:[::1]:7401", True),
        ("[0:0::0:1]:7401", "ipv6:[::1]:7401", True),
        ("[::ffff:127.0.0.1]:7401", "ipv6:[::ffff:7f00:1]:7401", True),
        ("[::ffff:10.0.0.1]:7401", "ipv6:[::ffff:a00:1]:7401", False),
        ("[fdaa::3]:7401", "ipv6:[fdaa::3]:7401", False),
        ("localhost:7401", "dns:///localhost:7401", True),
        ("Node-1.ams.example:7401", "dns:///node-1.ams.example:7401", False),
        ("unix:7401", "dns:///unix:7401", False),
        ("localhost.example:7401", "dns:///localhost.example:7401", False),
    ],
)
def test_accepted(text: str, target: str, loopback: bool) -> None:
    """Each spelling names one gRPC target, and only this machine counts as loopback."""
    (endpoint,) = parse_endpoints([text])
    assert (endpoint.target, endpoint.is_loopback) == (target, loopback)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:7401 ",
        "127.0.0.1:７401",
        "127.1:7401",
        "2130706433:7401",
        "999.0.0.1:7401",
        "::1:7401",
        "[::1]",
        "[::g]:7401",
        "[127.0.0.1]:7401",
        "[fe80::1%eth0]:7401",
        "http://127.0.0.1:7400",
        "dns:///node:7401",
        "unix:/run/petsem.sock",
        "node/path:7401",
        "-node:7401",
        "node..example:7401",
        ":7401",
        "a" * 64 + ":7401",
    ],
)
def test_refused(text: str) -> None:
    """Anything but HOST:PORT is invalid, and the message says which of the list it is."""
    with pytest.raises(PetsemError) as caught:
        parse_endpoints(["127.0.0.1:7401", text])
    assert caught.value.code is Code.INVALID
    assert "endpoint 2 " in caught.value.message


def test_a_token_in_the_wrong_place_is_not_quoted() -> None:
    """What was typed is not in the message, whatever it was."""
    with pytest.raises(PetsemError) as caught:
        parse_endpoints([token()])
    assert "petsem_" not in str(caught.value)


def test_one_text_is_not_a_list() -> None:
    """A forgotten pair of brackets is not eleven endpoints of one letter."""
    with pytest.raises(PetsemError, match="not one text"):
        parse_endpoints("127.0.0.1:7401")


def test_count_is_bounded_and_duplicates_count_once() -> None:
    """None and too many are refused; the same one twice is one."""
    assert len(parse_endpoints(["localhost:1", "LOCALHOST:1"])) == 1
    many = [f"127.0.0.1:{port}" for port in range(1, ENDPOINTS_MAX + 2)]
    for texts in ([], many):
        with pytest.raises(PetsemError) as caught:
            parse_endpoints(texts)
        assert caught.value.code is Code.INVALID


HOME, NEXT, LAST = Endpoint("127.0.0.1", 1), Endpoint("127.0.0.2", 1), Endpoint("127.0.0.3", 1)


def rotation() -> Rotation:
    return Rotation((HOME, NEXT, LAST), random.Random(7))


def test_a_failed_endpoint_goes_last_and_comes_home() -> None:
    """While it rests the next ones are asked first; afterwards the list's order holds again."""
    turning = rotation()
    assert turning.order(0.0) == [HOME, NEXT, LAST]
    turning.failed(HOME, 0.0)
    assert turning.order(REST_MIN_S * 0.49) == [NEXT, LAST, HOME]
    assert turning.order(REST_MIN_S) == [HOME, NEXT, LAST]
    turning.worked(HOME)
    assert turning.order(REST_MIN_S) == [HOME, NEXT, LAST]


def test_one_call_probes_for_all() -> None:
    """The first call after a rest tries the endpoint; those beside it wait for what it finds."""
    turning = rotation()
    turning.failed(HOME, 0.0)
    assert turning.order(REST_MIN_S)[0] == HOME
    assert turning.order(REST_MIN_S)[0] == NEXT
    assert turning.order(REST_MIN_S + PROBE_S)[0] == HOME


def test_rest_doubles_with_each_probe_that_fails_and_not_with_each_caller() -> None:
    """Many calls meeting one outage lengthen the rest once; its growth has an end."""
    turning = rotation()
    for _ in range(100):
        turning.failed(HOME, 0.0)
    assert turning.order(REST_MIN_S)[0] == HOME
    now_s = REST_MIN_S
    for _ in range(20):
        turning.failed(HOME, now_s)
        now_s += REST_MAX_S
        assert turning.order(now_s)[0] == HOME


def test_all_resting_are_still_asked() -> None:
    """With every endpoint failing, each is in the order, the first to wake first."""
    turning = rotation()
    for at, endpoint in enumerate((LAST, HOME, NEXT)):
        turning.failed(endpoint, at * REST_MIN_S / 100)
    assert sorted(map(str, turning.order(1.0))) == sorted(map(str, (HOME, NEXT, LAST)))
