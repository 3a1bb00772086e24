"""Tests of the names of rate-limit buckets, and of the keys that stand for addresses in these names."""

import pytest

from services.user_management.enums import RateClass
from services.user_management.rate_limiter import address_key
from services.user_management.rate_limiter.keys import MAX_KEY_CHARACTERS, bucket_name


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("a:b", "a:b"),
        ("testclient", "testclient"),
        (None, "unknown"),
    ],
)
def test_address_is_its_own_key_and_ipv6_its_network(address: str | None, key: str) -> None:
    assert address_key(address) == key


def test_bucket_is_named_after_class_and_key() -> None:
    assert bucket_name(RateClass.SIGN_IN, "203.0.113.9") == "{rl}:sign-in:203.0.113.9"
    assert bucket_name(RateClass.USER, "u" * MAX_KEY_CHARACTERS).endswith("u" * MAX_KEY_CHARACTERS)


@pytest.mark.parametrize("key", ["x" * 129, "ä", "\ud800", "x" * 100_000])
def test_long_or_foreign_key_is_hashed(key: str) -> None:
    name = bucket_name(RateClass.USER, key)

    assert len(name) == len("{rl}:user:") + 64
    assert name != bucket_name(RateClass.USER, key + "x")
