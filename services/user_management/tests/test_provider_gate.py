"""Tests of the gate before each provider: a cap on calls at once, and a breaker, by a clock that the tests move."""

import asyncio

import pytest

from services.user_management.integrations.provider_errors import ProviderCallError
from services.user_management.integrations.provider_gate import BreakerPhase, ProviderGate
from services.user_management.observability import REGISTRY
from services.user_management.tests.clocks import SetClock

PROVIDER = "acme"


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def gate(clock: SetClock) -> ProviderGate:
    return ProviderGate(clock, wait_seconds=0.05)


async def fail(gate: ProviderGate, times: int = 1, *, retry_after: float | None = None) -> None:
    for _ in range(times):
        async with gate.call(PROVIDER, max_concurrency=1) as call:
            call.failed(retry_after)


async def answer(gate: ProviderGate) -> None:
    async with gate.call(PROVIDER, max_concurrency=1) as call:
        call.answered()


async def refusal(gate: ProviderGate, *, max_concurrency: int = 1) -> ProviderCallError:
    with pytest.raises(ProviderCallError) as caught:
        async with gate.call(PROVIDER, max_concurrency=max_concurrency):
            pytest.fail("let through")
    return caught.value


def gauge() -> float | None:
    return REGISTRY.get_sample_value("user_management_provider_breaker_open", {"provider": PROVIDER})


async def test_calls_beyond_the_cap_are_refused_with_nothing_sent(gate: ProviderGate) -> None:
    async with gate.call(PROVIDER, max_concurrency=2), gate.call(PROVIDER, max_concurrency=2):
        error = await refusal(gate, max_concurrency=2)
        async with gate.call("another", max_concurrency=2):
            pass

    assert (error.kind, error.code, error.answered, error.outcome_unknown) == (
        "transient",
        "too_many_calls",
        False,
        False,
    )
    await answer(gate)


async def test_call_that_waits_gets_the_turn_of_one_that_ends(clock: SetClock) -> None:
    gate = ProviderGate(clock, wait_seconds=30.0)
    order: list[str] = []
    first_is_in, first_may_end = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with gate.call(PROVIDER, max_concurrency=1):
            first_is_in.set()
            await first_may_end.wait()
            order.append("first")

    async def second() -> None:
        await first_is_in.wait()
        first_may_end.set()
        async with gate.call(PROVIDER, max_concurrency=1):
            order.append("second")

    await asyncio.gather(first(), second())

    assert order == ["first", "second"]


async def test_breaker_opens_with_the_fifth_failure_and_not_before(gate: ProviderGate) -> None:
    await fail(gate, 4)
    before = gate.state(PROVIDER).phase
    await fail(gate)

    error = await refusal(gate)

    assert before is BreakerPhase.CLOSED
    assert gate.state(PROVIDER).phase is BreakerPhase.OPEN
    assert (error.kind, error.code, error.answered) == ("transient", "breaker_open", False)
    assert 12 <= (error.retry_after or 0) <= 18
    assert gauge() == 1


async def test_failures_over_more_than_thirty_seconds_do_not_open_it(gate: ProviderGate, clock: SetClock) -> None:
    for _ in range(10):
        await fail(gate)
        clock.seconds += 7.6

    assert gate.state(PROVIDER).phase is BreakerPhase.CLOSED


async def test_answer_between_failures_keeps_it_closed(gate: ProviderGate) -> None:
    await fail(gate, 4)
    await answer(gate)
    await fail(gate, 4)

    assert gate.state(PROVIDER).phase is BreakerPhase.CLOSED


async def test_one_trial_is_let_through_and_its_answer_closes_it(gate: ProviderGate, clock: SetClock) -> None:
    await fail(gate, 5)
    clock.seconds += 18.1
    half_open = gate.state(PROVIDER).phase

    async with gate.call(PROVIDER, max_concurrency=2) as trial:
        meanwhile = await refusal(gate, max_concurrency=2)
        trial.answered()

    assert half_open is BreakerPhase.HALF_OPEN
    assert meanwhile.code == "breaker_open"
    assert gate.state(PROVIDER).phase is BreakerPhase.CLOSED
    assert gauge() == 0


async def test_trial_that_fails_doubles_the_pause_up_to_two_minutes(gate: ProviderGate, clock: SetClock) -> None:
    await fail(gate, 5)
    pauses = [gate.state(PROVIDER).retry_after_seconds]
    for _ in range(5):
        clock.seconds += pauses[-1]
        await fail(gate)
        pauses.append(gate.state(PROVIDER).retry_after_seconds)

    for pause, nominal in zip(pauses, (15, 30, 60, 120, 120, 120), strict=True):
        assert nominal * 0.8 <= pause <= nominal * 1.2


async def test_trial_that_ends_without_a_word_leaves_the_next_one_to_be_it(gate: ProviderGate, clock: SetClock) -> None:
    await fail(gate, 5)
    clock.seconds += 18.1

    async with gate.call(PROVIDER, max_concurrency=1):
        pass
    await answer(gate)

    assert gate.state(PROVIDER).phase is BreakerPhase.CLOSED


@pytest.mark.parametrize(("retry_after", "pause"), [(90.0, 90.0), (10.0**6, 3600.0)])
async def test_breaker_is_open_for_as_long_as_the_provider_said(
    gate: ProviderGate, retry_after: float, pause: float
) -> None:
    await fail(gate, 5, retry_after=retry_after)

    assert gate.state(PROVIDER).retry_after_seconds == pause


@pytest.mark.parametrize("retry_after", [0.0, 1.0])
async def test_provider_that_always_says_soon_does_not_keep_the_pauses_from_growing(
    gate: ProviderGate, clock: SetClock, retry_after: float
) -> None:
    await fail(gate, 5, retry_after=retry_after)
    first = gate.state(PROVIDER).retry_after_seconds
    clock.seconds += first

    await fail(gate, retry_after=retry_after)

    assert 12 <= first <= 18
    assert 24 <= gate.state(PROVIDER).retry_after_seconds <= 36


async def test_answer_to_a_call_from_before_leaves_it_open_for_as_long_as_the_provider_said(gate: ProviderGate) -> None:
    async with gate.call(PROVIDER, max_concurrency=9) as early:
        await asyncio.gather(*(fail(gate, retry_after=600.0) for _ in range(5)))
        early.answered()

    assert gate.state(PROVIDER).phase is BreakerPhase.OPEN
    assert gate.state(PROVIDER).retry_after_seconds == 600.0


async def test_answer_to_a_call_from_before_does_not_stand_in_for_the_trial(
    gate: ProviderGate, clock: SetClock
) -> None:
    async with gate.call(PROVIDER, max_concurrency=9) as early:
        await asyncio.gather(*(fail(gate) for _ in range(5)))
        clock.seconds += 18.1
        early.answered()

    assert gate.state(PROVIDER).phase is BreakerPhase.HALF_OPEN


async def test_failure_of_a_call_from_before_does_not_prolong_it(gate: ProviderGate, clock: SetClock) -> None:
    async with gate.call(PROVIDER, max_concurrency=9) as early:
        await asyncio.gather(*(fail(gate) for _ in range(5)))
        clock.seconds += 10
        until = gate.state(PROVIDER).retry_after_seconds
        early.failed(None)

    assert gate.state(PROVIDER).retry_after_seconds == until


async def test_call_that_waited_while_it_opened_is_refused(clock: SetClock) -> None:
    gate = ProviderGate(clock, wait_seconds=30.0)
    waiting = asyncio.Event()

    async def waiter() -> ProviderCallError:
        waiting.set()
        return await refusal(gate)

    async with gate.call(PROVIDER, max_concurrency=1) as call:
        task = asyncio.ensure_future(waiter())
        await waiting.wait()
        for _ in range(5):
            call.failed()

    assert (await task).code == "breaker_open"
