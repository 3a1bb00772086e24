"""Tests of session tokens that are presented again: they are verified once, and refused as soon as a fresh verification
would refuse them."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from services.user_management.exceptions import KeySetUnavailableError, SessionPendingError, UnauthenticatedError
from services.user_management.security.jwt import LEEWAY_SECONDS, MAX_REMEMBERED, SessionVerifier
from services.user_management.tests.clocks import NOW, SetClock
from services.user_management.tests.session_tokens import (
    ISSUER,
    KEY_ID,
    ORIGIN,
    PRIVATE_KEY,
    token,
)

OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()


class Keys:
    """The issuer's key set with one key, which a test can replace or withdraw (None); `away` makes the set
    unavailable."""

    def __init__(self) -> None:
        self.key: RSAPublicKey | None = PRIVATE_KEY.public_key()
        self.away = False

    async def find(self, key_id: str | None) -> RSAPublicKey | None:
        if self.away:
            raise KeySetUnavailableError
        return self.key if key_id == KEY_ID else None


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def remembering(keys: Keys, clock: SetClock) -> SessionVerifier:
    return SessionVerifier(keys, issuer=ISSUER, authorized_parties=[ORIGIN], clock=clock)


async def test_token_that_comes_again_is_not_read_again(remembering: SessionVerifier) -> None:
    presented = token()

    first, second = await remembering.verify(presented), await remembering.verify(presented)

    assert second is first


@pytest.mark.parametrize("key", [None, OTHER_KEY])
async def test_remembered_token_is_refused_once_its_key_is_withdrawn_or_replaced(
    remembering: SessionVerifier, keys: Keys, key: RSAPublicKey | None
) -> None:
    presented = token()
    await remembering.verify(presented)

    keys.key = key

    with pytest.raises(UnauthenticatedError):
        await remembering.verify(presented)


async def test_remembered_token_is_verified_anew_when_the_same_key_was_fetched_again(
    remembering: SessionVerifier, keys: Keys
) -> None:
    presented = token()
    first = await remembering.verify(presented)
    keys.key = PRIVATE_KEY.public_key()

    second = await remembering.verify(presented)

    assert second == first
    assert second is not first


async def test_remembered_token_is_no_use_while_the_keys_cannot_be_had(
    remembering: SessionVerifier, keys: Keys
) -> None:
    presented = token()
    await remembering.verify(presented)
    keys.away = True

    with pytest.raises(KeySetUnavailableError):
        await remembering.verify(presented)


async def test_remembered_token_runs_out(remembering: SessionVerifier, clock: SetClock) -> None:
    presented = token()
    await remembering.verify(presented)

    clock.seconds = NOW + 60 + LEEWAY_SECONDS
    await remembering.verify(presented)
    clock.seconds += 1

    with pytest.raises(UnauthenticatedError):
        await remembering.verify(presented)


async def test_session_that_was_pending_is_pending_again(remembering: SessionVerifier) -> None:
    presented = token(sts="pending")

    for _ in range(2):
        with pytest.raises(SessionPendingError):
            await remembering.verify(presented)


async def test_forged_neighbour_of_a_remembered_token_is_refused(remembering: SessionVerifier) -> None:
    presented = token()
    await remembering.verify(presented)

    for forged in (f"{presented[:-1]}", f"{presented}A", f"{presented}\ud800", presented.swapcase()):
        with pytest.raises(UnauthenticatedError):
            await remembering.verify(forged)


async def test_memory_is_bounded(remembering: SessionVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.user_management.security.jwt.MAX_REMEMBERED", 3)
    tokens = [token(jti=f"token_{number}") for number in range(5)]
    sessions = [await remembering.verify(one) for one in tokens]

    again = [await remembering.verify(one) for one in reversed(tokens)]

    assert [after is before for after, before in zip(again, reversed(sessions), strict=True)] == [True] * 3 + [
        False
    ] * 2
    assert MAX_REMEMBERED >= 1000
