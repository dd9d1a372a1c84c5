"""What is held in memory, and how often something may be done: never more than is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from petsem.clock import ManualClock
from petsem.errors import Code, PetsemError
from petsem.sso import results
from petsem.sso.flow import Flow
from petsem.sso.rates import Rates, block_of
from petsem.sso.results import Result, SignIns

ACME, OTHER = b"a" * 16, b"o" * 16


def refused(call: Callable[[], object]) -> Code:
    with pytest.raises(PetsemError) as caught:
        call()
    return caught.value.code


def flow(clock: ManualClock, number: int) -> Flow:
    return Flow(number.to_bytes(16, "big"), clock.unix_ms(), bytes(32), None, "", b"t")


def test_rates() -> None:
    """A burst, then so many a second, for each key by itself."""
    clock = ManualClock()
    rates = Rates(clock, per_s=2.0, burst=3, keys_max=2)
    for _ in range(3):
        rates.take("a")
    assert refused(lambda: rates.take("a")) is Code.LIMIT
    rates.take("b")
    clock.advance(0.5)
    rates.take("a")
    assert refused(lambda: rates.take("a")) is Code.LIMIT


def test_rates_remember_a_bounded_number_of_keys() -> None:
    """A new key waits until one that is known has its whole burst again."""
    clock = ManualClock()
    rates = Rates(clock, per_s=1.0, burst=1, keys_max=2)
    rates.take("a")
    rates.take("b")
    assert refused(lambda: rates.take("c")) is Code.LIMIT
    clock.advance(1)
    rates.take("c")
    rates.take("a")
    assert refused(lambda: rates.take("b")) is Code.LIMIT


@pytest.mark.parametrize(
    ("ip", "block"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:0:1::7", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:0db8:0000:0001:0000::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::7", "2001:db8:0:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::1", "::/64"),
        (None, None),
        ("", None),
    ],
)
def test_what_an_address_is_counted_as(ip: str | None, block: str | None) -> None:
    """Whoever has an IPv6 network has 2^64 addresses of it, and is one."""
    assert block_of(ip) == block


def test_sign_ins_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one org, and in all; what is over makes room."""
    monkeypatch.setattr(results, "OF_ORG_MAX", 2)
    monkeypatch.setattr(results, "ALL_MAX", 3)
    clock = ManualClock()
    sign_ins = SignIns(clock)
    flows = [flow(clock, number) for number in range(5)]
    for each in flows[:2]:
        sign_ins.begin(ACME, each)
    assert refused(lambda: sign_ins.begin(ACME, flows[2])) is Code.LIMIT
    assert refused(lambda: sign_ins.count_code(ACME, flows[2])) is Code.LIMIT
    sign_ins.begin(OTHER, flows[2])
    assert refused(lambda: sign_ins.begin(b"third" * 3, flows[3])) is Code.LIMIT
    clock.advance(600)
    sign_ins.begin(ACME, flow(clock, 9))
    sign_ins.begin(OTHER, flow(clock, 10))


def test_a_result_is_erased() -> None:
    """Once it was fetched nothing of it is left but that it was."""
    clock = ManualClock()
    sign_ins = SignIns(clock)
    one = flow(clock, 1)
    sign_in = sign_ins.begin(ACME, one)
    assert refused(lambda: sign_ins.begin(ACME, one)) is Code.CONFLICT
    sign_in.asking = False
    sign_in.result = Result("ana@example.com", "session", None)
    assert sign_ins.ready(one)
    assert sign_ins.collect(one, None) == Result("ana@example.com", "session", None)
    assert sign_in.result is None
    assert refused(lambda: sign_ins.collect(one, None)) is Code.NOT_FOUND
    assert "session" not in repr(Result("ana@example.com", "session", b"release"))


def test_a_release_is_needed_where_there_is_one() -> None:
    """Without it there is no result yet, for ever; with another it is refused, and stays."""
    clock = ManualClock()
    sign_ins = SignIns(clock)
    one = flow(clock, 1)
    sign_in = sign_ins.begin(ACME, one)
    sign_in.result = Result("ana@example.com", None, b"r" * 32)
    assert not sign_ins.ready(one)
    assert sign_ins.collect(one, None) is None
    assert refused(lambda: sign_ins.collect(one, b"s" * 32)) is Code.DENIED
    assert sign_ins.collect(one, b"r" * 32) is not None
