"""The settings of the rate limits and of the trusted proxies: defaults, accepted forms and refused values."""

import pytest

from services.user_management.enums import RateClass
from services.user_management.settings import QuotaPolicy
from services.user_management.settings.groups import LimitsGroup, ProxyGroup
from services.user_management.tests.rate_limits.allowances import POLICIES


def test_defaults_are_the_documented_ones() -> None:
    assert LimitsGroup().policies() == POLICIES | {RateClass.ANONYMOUS: QuotaPolicy(100, 60)}
    assert set(LimitsGroup().policies()) == set(RateClass)


@pytest.mark.parametrize(
    "text", ["100", "0/60", "100/0", "1/2/3", "-1/60", "1.5/60", "1000001/1", "1/86401", "\u0661/60"]
)
def test_unreadable_limit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be COUNT/SECONDS"):
        LimitsGroup(user=text)  # type: ignore[arg-type]  # as text, the way the environment has it


@pytest.mark.parametrize(
    "text", ["10.0.0.0/8,fd00::/8", "10.0.0.0/8 fd00::/8", " 10.0.0.0/8 ,\nfd00::/8,", '["10.0.0.0/8", "fd00::/8"]']
)
def test_networks_are_read_in_every_form(text: str) -> None:
    networks = ProxyGroup(trusted_networks=text).trusted_networks  # type: ignore[arg-type]  # as text

    assert [str(network) for network in networks] == ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy.internal", "10.0.0.0/33", "[5]", "[", "10.0.0.0-10.0.0.9"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be networks|is not JSON"):
        ProxyGroup(trusted_networks=text)  # type: ignore[arg-type]  # as text


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.0.0.0/8, ::/0"])
def test_trusting_everybody_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="trusts everybody"):
        ProxyGroup(trusted_networks=text)  # type: ignore[arg-type]  # as text
