"""The scenarios of the chaos run (`benchmarks/chaos`) as tests. Kills during a refresh, and races, run small every time
and at full size in the nightly tests; rolling restarts, Postgres outages, bad answers and wrong clocks run in the
nightly tests only.

What a kill may cost is judged in `benchmarks/chaos/verdict.py`, whose own tests show that it notices a loss.
"""

import os
import random
import secrets
from collections.abc import AsyncIterator, Sequence

import pytest

from benchmarks.chaos import bad_answers, clocks, kills, outages, races, restarts
from benchmarks.chaos.aftermath import gather_evidence, until_settled
from benchmarks.chaos.fleet import Fleet, fleet_in
from benchmarks.chaos.kills import Killed, Share, Victim
from benchmarks.chaos.ledger import ledger_in
from benchmarks.chaos.run import FULL
from benchmarks.chaos.verdict import judge
from benchmarks.report import Promise, Verdict
from services.devstack.folders import scratch_folder
from services.sandbox.providers import KINDS, Kind
from services.user_management.core.failpoints import Failpoint

pytestmark = pytest.mark.serial

TWO_KINDS: tuple[Kind, ...] = ("static", "strict")
"""The most lenient refresh kind and the strictest one."""
WITH_THE_CALL_OUT = (Failpoint.PROVIDER_COMMITTED, Failpoint.ANSWER_PARSED)


@pytest.fixture(scope="module")
async def chaos() -> AsyncIterator[Fleet]:
    with scratch_folder() as folder, ledger_in(folder) as ledger:
        async with fleet_in(folder, ledger) as fleet:
            yield fleet
            assert ledger.refused_by_provider() == 0


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("SEED") or secrets.randbits(31))
    print(f"SEED={seed}")  # noqa: T201 - a failure is repeated by it
    return random.Random(seed)  # noqa: S311 - reproducible on purpose


def broken(promises: Sequence[Promise]) -> list[str]:
    return [promise.line() for promise in promises if promise.verdict is Verdict.FAIL]


async def verdict_on(fleet: Fleet, killed: Sequence[Killed], planned: int) -> list[Promise]:
    await until_settled(fleet, [one.connection for one in killed])
    evidence = await gather_evidence(fleet, killed)
    happened = sum(one.pid is not None for one in killed)
    return judge("kills", evidence, kills=happened, planned=planned, per_point=kills.per_point(killed))


async def test_api_killed_at_every_failpoint_loses_only_what_was_out_and_says_so(
    chaos: Fleet, chance: random.Random
) -> None:
    share = Share(at_failpoints=len(kills.KILL_POINTS), at_random=1)
    planned = kills.plan(chance, Victim.API, share, ["strict"])
    await chaos.connect(["strict"], share.total)

    killed, _ = await kills.carry_out(chaos, planned, [])
    await chaos.rows.end_leases(*(one.connection for one in killed))

    assert broken(await verdict_on(chaos, killed, len(planned))) == []
    assert kills.per_point(killed) == {**{f"K{number}": 1 for number in range(9)}, "random": 1}


async def test_worker_killed_in_the_refresh_job_loses_only_what_was_out_and_says_so(
    chaos: Fleet, chance: random.Random
) -> None:
    share = Share(at_failpoints=2, at_random=1)
    planned = kills.plan(chance, Victim.WORKER, share, TWO_KINDS, points=WITH_THE_CALL_OUT)
    await chaos.connect(TWO_KINDS, share.total)

    _, killed = await kills.carry_out(chaos, [], planned)
    await chaos.rows.end_leases(*(one.connection for one in killed))

    assert broken(await verdict_on(chaos, killed, len(planned))) == []
    assert kills.per_point(killed) == {"K3": 2, "K5": 2, "random": 2}


async def test_two_workers_and_two_apis_call_the_provider_once_per_expiry(chaos: Fleet) -> None:
    await chaos.connect(["strict"], 1)

    assert broken(await races.race(chaos, rounds=20)) == []


async def test_refused_loser_gets_the_winners_token(chaos: Fleet) -> None:
    await chaos.connect(KINDS, 1)

    assert broken(await races.come_too_late(chaos, rounds=8)) == []


@pytest.mark.nightly
async def test_a_thousand_kills_per_kind_lose_only_what_was_out_and_say_so_in_a_minute(
    chaos: Fleet, chance: random.Random
) -> None:
    api = kills.plan(chance, Victim.API, FULL.api_kills)
    worker = kills.plan(chance, Victim.WORKER, FULL.worker_kills)
    await chaos.connect(KINDS, FULL.api_kills.total + FULL.worker_kills.total)

    of_api, of_worker = await kills.carry_out(chaos, api, worker)

    assert broken(await verdict_on(chaos, of_api, len(api))) == []
    assert broken(await verdict_on(chaos, of_worker, len(worker))) == []


@pytest.mark.nightly
async def test_rolling_restarts_lose_nothing_and_leave_nobody_unserved(chaos: Fleet, chance: random.Random) -> None:
    await chaos.connect(KINDS, restarts.PER_KIND)

    rolled = await restarts.roll(chaos, FULL.restarts, every_seconds=FULL.restart_every_seconds, chance=chance)

    assert broken(rolled) == []


@pytest.mark.nightly
async def test_a_thousand_races_call_the_provider_once_per_expiry(chaos: Fleet) -> None:
    await chaos.connect(["strict"], 1)

    assert broken(await races.race(chaos, rounds=FULL.race_rounds)) == []


@pytest.mark.nightly
async def test_a_thousand_refused_losers_get_the_winners_token(chaos: Fleet) -> None:
    await chaos.connect(KINDS, 1)

    assert broken(await races.come_too_late(chaos, rounds=FULL.late_rounds)) == []


@pytest.mark.nightly
async def test_postgres_away_when_the_answer_arrives_loses_only_what_a_lease_cannot_save(chaos: Fleet) -> None:
    await chaos.connect(KINDS, 2 * FULL.struck_by_outage)

    assert broken(await outages.short_outage(chaos, FULL.struck_by_outage)) == []
    assert broken(await outages.long_outage(chaos, FULL.struck_by_outage)) == []


@pytest.mark.nightly
async def test_bad_answers_keep_the_refresh_token_and_open_the_breaker(chaos: Fleet) -> None:
    await chaos.connect(KINDS, FULL.bad_answers * len(bad_answers.FAULTS) + bad_answers.BREAKER_ASKED)

    assert broken(await bad_answers.answer_badly(chaos, FULL.bad_answers)) == []


@pytest.mark.nightly
async def test_clocks_ten_minutes_off_hand_out_nothing_expired(chaos: Fleet) -> None:
    await chaos.connect(KINDS, FULL.wrong_clocks * clocks.PER_KIND)

    assert broken(await clocks.tell_wrong_time(chaos, FULL.wrong_clocks)) == []
