"""The bucket of one process, and what counts as one address."""

import pytest

from shared.http.limits import Allowance, LocalBuckets, address_key


class TestLocalBuckets:
    def test_a_burst_of_the_limit_and_then_the_rate(self) -> None:
        buckets, who = LocalBuckets(), Allowance("a", 60)
        assert [buckets.take(who, now=0.0).allowed for _ in range(61)] == [True] * 60 + [False]
        refused = buckets.take(who, now=0.5)
        assert (refused.allowed, refused.retry_seconds) == (False, pytest.approx(0.5))
        assert buckets.take(who, now=1.0).allowed
        assert not buckets.take(who, now=1.0).allowed

    def test_refused_requests_cost_nothing(self) -> None:
        buckets, who = LocalBuckets(), Allowance("a", 1)
        buckets.take(who, now=0.0)
        for moment in range(1, 60):
            assert not buckets.take(who, now=float(moment)).allowed
        assert buckets.take(who, now=60.0).allowed

    def test_memory_is_bounded(self) -> None:
        buckets = LocalBuckets(buckets_max=3)
        for name in "abcd":
            buckets.take(Allowance(name, 1), now=0.0)
        assert buckets.take(Allowance("a", 1), now=0.0).allowed  # forgotten
        assert not buckets.take(Allowance("d", 1), now=0.0).allowed


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8:0:0:ffff::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("not an address", "'; DROP", True),
    ],
)
def test_what_is_one_address(first: str, second: str, same: bool) -> None:
    assert (address_key(first) == address_key(second)) is same
