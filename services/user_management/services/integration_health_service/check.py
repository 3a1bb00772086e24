"""The check of integrations, every 15 minutes. It distinguishes three kinds of trouble: an access token that is
refused, a provider that is down, and a client of ours that the provider refuses.

Only the first of these is a user's concern. The check walks over the integrations that serve tokens, beginning with
those that were probed longest ago (to probe: to ask the provider whether it accepts the access token). It probes or
refreshes those whose trouble nothing else would show; an integration that is refreshed regularly needs no check.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import structlog

from services.user_management.core.integration_counts import misconfigured
from services.user_management.core.json_types import JSONObject
from services.user_management.core.principal import Principal
from services.user_management.database import Database
from services.user_management.enums import ProviderState
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.queries import integration_health as queries
from services.user_management.queries import job as job_queries
from services.user_management.queries.integration_health import Candidate, Place
from services.user_management.services.integration_health_service.examination import Examination
from services.user_management.services.integration_health_service.scope_enforcement import ScopeEnforcement
from services.user_management.services.integration_health_service.tally import Tallies
from services.user_management.services.slice_time import SliceTime, StartSlice
from services.user_management.unit_of_work import UnitOfWorkFactory

CHECK_PERIOD_SECONDS: Final = 900.0
CONCURRENCY: Final = 16
MAX_PROBES: Final = 500
"""The most integrations that one run examines, by a probe or a refresh. A run is one period of 15 minutes."""
IDLE_SECONDS: Final = 86_400.0
"""For how long an integration must have been neither connected nor refreshed nor accepted by a check before it is due.
Degraded integrations, those whose access token never expires, and those of a provider that is not well are always
due."""
PAGE: Final = 500
_FIRST_PROBED: Final = Place(datetime(1970, 1, 1, tzinfo=UTC))

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Run:
    """One run of the check: how far its walk over the integrations is, and what it has seen of the providers. Between
    two slices (a few seconds of work each) it is kept in the job's cursor."""

    began: datetime
    """When the run began, by the database's clock."""
    after: Place | None = field(default_factory=Place)
    """The place after which the walk goes on; None when the walk is over."""
    probes: int = 0
    tallies: Tallies = field(default_factory=lambda: Tallies({}))

    @property
    def is_over(self) -> bool:
        return self.after is None or self.probes >= MAX_PROBES

    def to_json(self) -> JSONObject:
        after = self.after
        probed_at = None if after is None or after.probed_at is None else after.probed_at.isoformat()
        return {
            "began": self.began.isoformat(),
            "after": None if after is None else [probed_at, str(after.id)],
            "probes": self.probes,
            "tallies": self.tallies.to_json(),
        }


@dataclass(kw_only=True, eq=False)
class IntegrationHealthService:
    """The periodic check of integrations and providers, as a job that works in slices; any worker may do any slice."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry
    examination: Examination
    scopes: ScopeEnforcement
    start_slice: StartSlice

    async def check(self, actor: Principal, cursor: Any) -> JSONObject | None:
        """Slice: first compare integrations with the scopes that are required now, where these have changed; then check
        the due integrations, and at the end of the run write the providers' states. Returns the next cursor; None when
        the run is over."""
        time = self.start_slice()
        cursor = cursor or {"scopes": None}
        if "scopes" in cursor:
            position = await self.scopes.enforce(actor, cursor["scopes"], time)
            if position is not None:
                return {"scopes": position}
        run = await self._begin() if "scopes" in cursor else _run(cursor)
        states = await self._states()
        while not run.is_over:
            if not time.may_begin():
                return run.to_json()
            await self._walk_on(actor, run, states, time)
        await self._conclude(actor, run, states)
        return None

    async def _begin(self) -> _Run:
        async with self.database.reading() as connection:
            return _Run(began=await job_queries.database_now(connection))

    async def _states(self) -> dict[str, ProviderState]:
        async with self.database.reading() as connection:
            return await queries.read_states(connection, [provider.name for provider in self.providers])

    async def _walk_on(self, actor: Principal, run: _Run, states: dict[str, ProviderState], time: SliceTime) -> None:
        """Check the due integrations of the next page, and move the run's place on: to the end of the page, or if time
        runs out, to the last integration that was begun."""
        if run.after is None:
            return
        unwell = [
            name
            for name, state in states.items()
            if state is not ProviderState.UP
            and not run.tallies.has_answered(name)
            and not run.tallies.is_left_alone(name)
        ]
        async with self.database.reading() as connection:
            page = await queries.due_page(
                connection,
                after=run.after,
                began=run.began,
                unwell=unwell,
                idle_seconds=IDLE_SECONDS,
                page=PAGE,
            )
        last = await self._check_all(actor, page.due, run, time)
        if last is not None:
            # The page's order is the walk's, so the walk goes on after the last integration that was begun.
            run.after = last
        elif page.end is not None:
            run.after = page.end
        else:
            run.after = _FIRST_PROBED if run.after.probed_at is None else None

    async def _check_all(self, actor: Principal, due: list[Candidate], run: _Run, time: SliceTime) -> Place | None:
        """Check integrations, sixteen at once, except those whose provider is left alone in this run or is not
        configured. Returns the place of the last one that was begun if time or the run's probes ran out; None if all
        were checked."""
        waiting = iter(due)
        broken_off: list[Place] = []
        begun = run.after

        async def work() -> None:
            nonlocal begun
            for held in waiting:
                if run.is_over or not time.may_begin():
                    broken_off.append(begun or Place())
                    return
                begun = Place(held.last_probed_at, held.id)
                if not run.tallies.is_left_alone(held.provider) and held.provider in self.providers:
                    run.probes += 1
                    await self.examination.examine(actor, held, run.tallies, time)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENCY, len(due))):
                group.create_task(work())
        return broken_off[0] if broken_off else None

    async def _conclude(self, actor: Principal, run: _Run, states: dict[str, ProviderState]) -> None:
        """Write the state of each provider for which the run has reached a verdict, count the providers that refuse our
        client, and log what is new; other providers keep their states."""
        verdicts = {name: verdict for name in run.tallies if (verdict := run.tallies.verdict(name)) is not None}
        async with self.unit_of_work(actor) as uow:
            for name, (state, reason) in verdicts.items():
                await queries.set_state(uow.connection, name, state, reason=reason)
                if state is ProviderState.MISCONFIGURED:
                    uow.count(misconfigured(name))
        for name, (state, reason) in verdicts.items():
            former = states.get(name, ProviderState.UP)
            _tell(name, former, state, reason)
        log.info("integrations.checked", probes=run.probes)


def _tell(provider: str, former: ProviderState, state: ProviderState, reason: str | None) -> None:
    """Log a provider's state if it has changed. A refusal of our client is logged in every run, since an operator has
    to act."""
    if state is ProviderState.MISCONFIGURED:
        log.error("provider.misconfigured", provider=provider, reason=reason)
    elif state is not former and state is ProviderState.DOWN:
        log.error("provider.down", provider=provider, reason=reason)
    elif state is not former:
        log.info("provider.recovered", provider=provider, former=former.value)


def _run(cursor: JSONObject) -> _Run:
    place: Place | None = None
    if cursor["after"] is not None:
        probed_at, id_text = cursor["after"]
        place = Place(None if probed_at is None else datetime.fromisoformat(probed_at), UUID(id_text))
    return _Run(
        began=datetime.fromisoformat(cursor["began"]),
        after=place,
        probes=cursor["probes"],
        tallies=Tallies.of_json(cursor["tallies"]),
    )
