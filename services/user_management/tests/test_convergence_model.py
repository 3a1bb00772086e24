"""Tests that random histories of several users, delivered in any order, repeatedly or in part, end where a model says
that knows only what was delivered and edited."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.sandbox.app import create_app
from services.sandbox.state import Sandbox
from services.user_management.container import Container
from services.user_management.container.reconciliation import build_reconciliation
from services.user_management.exceptions import UserNotFoundError
from services.user_management.http_client import create_http_client
from services.user_management.schemas.user import UserUpdate
from services.user_management.tests.actors import TESTER
from services.user_management.tests.clerk_history import (
    IMAGE,
    START,
    Event,
    deleted,
    deliver,
    signed_in,
    states,
    updated,
)
from services.user_management.tests.conftest import SANDBOX_URL
from services.user_management.tests.replacing import replace_in_group

Owner = asyncpg.Connection
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("clean_database")]

PEOPLE: Final = 4
LONGEST: Final = 8
NAMES: Final = ("first_name", "last_name")
FRESH: Final[dict[str, Any]] = {
    "first_name": None,
    "last_name": None,
    "email": None,
    "email_verified": False,
    "banned": False,
    "locked": False,
    "deprovisioned": False,
}

_changes = st.one_of(
    st.fixed_dictionaries({"first_name": st.sampled_from(["Ada", "Zoë", None]), "last_name": st.just("King")}),
    st.fixed_dictionaries(
        {"email": st.sampled_from(["a@example.com", "b@example.com"]), "email_verified": st.sampled_from([True])}
    ),
    st.sampled_from([{"email": None, "email_verified": False}, {"email_verified": False}, {}]),
    st.sampled_from(["banned", "locked", "deprovisioned"]).flatmap(
        lambda flag: st.fixed_dictionaries({flag: st.booleans()})
    ),
)
_steps = st.tuples(
    st.integers(0, PEOPLE - 1),
    st.one_of(_changes, st.sampled_from(["swap", "session", "session", "delete"])),
    st.integers(0, 2),
)
_edits = st.tuples(
    st.integers(0, PEOPLE - 1), st.fixed_dictionaries({name: st.sampled_from(["Local", None]) for name in NAMES})
)


@dataclass
class World:
    """What really happened at Clerk, and the events about it."""

    people: dict[str, dict[str, Any]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    updated_at: dict[str, int] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    now: int = 0

    def happen(self, number: int, change: Any, wait: int) -> None:
        """Advance the clock by `wait`, then let `change` happen to the user `number`. Nothing happens to a user who is
        deleted, or has taken LONGEST steps."""
        person = f"user_{number}"
        self.now += wait
        self.taken[person] = self.taken.get(person, 0) + 1
        if person in self.gone or self.taken[person] > LONGEST:
            return
        if change == "swap":
            self._swap(person, f"user_{(number + 1) % PEOPLE}")
        elif change == "session":
            self.events.append(signed_in(person, at=self.now * 1000))
        elif change == "delete":
            self.gone.add(person)
            self.events.append(deleted(person, at=self.now))
        else:
            self._change(person, change)

    def _change(self, person: str, change: dict[str, Any]) -> None:
        fields = {**self.people.get(person, FRESH), **change}
        fields["email_verified"] = fields["email_verified"] and fields["email"] is not None
        self.people[person] = fields
        self.updated_at[person] = self.now
        self.events.append(updated(person, at=self.now, **fields))

    def _swap(self, person: str, other: str) -> None:
        if {person, other} <= self.people.keys() - self.gone:
            mine, theirs = self.people[person], self.people[other]
            address = {name: mine[name] for name in ("email", "email_verified")}
            self._change(person, {name: theirs[name] for name in address})
            self._change(other, address)


@dataclass
class Heard:
    """The model: keeps what was delivered to the service and what was edited there, and says which states may
    follow."""

    known: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    news: dict[str, list[tuple[float, float, dict[str, Any]]]] = field(default_factory=dict)
    sessions: dict[str, dict[str, float]] = field(default_factory=dict)
    local: dict[str, dict[str, str]] = field(default_factory=dict)

    def hear(self, told: Event) -> None:
        subject = told["data"]
        person = subject.get("user_id") or subject["id"]
        self.known.add(person)
        if told["type"] == "user.deleted":
            self.gone.add(person)
        elif told["type"] == "session.created":
            self.sessions.setdefault(person, {})[subject["id"]] = _seconds(subject["created_at"])
        else:
            key = (_seconds(subject["updated_at"]), _seconds(told["timestamp"]))
            self.news.setdefault(person, []).append((*key, _visible(subject)))

    def edit(self, person: str, edit: dict[str, str | None]) -> bool:
        """Note an edit of a user in the service, where an empty value drops an earlier edit. Returns False, and notes
        nothing, if the user is unknown or deleted."""
        if person not in self.known or person in self.gone:
            return False
        self.local.setdefault(person, {}).update({name: value for name, value in edit.items() if value})
        for name in (name for name, value in edit.items() if not value):
            self.local[person].pop(name, None)
        return True

    def expected(self, person: str) -> list[dict[str, Any]]:
        """Return the states that are right for a user: more than one only if several descriptions are of the very same
        moment."""
        stories = self.news.get(person, [])
        newest = max((story[:2] for story in stories), default=None)
        candidates = [content for *key, content in stories if tuple(key) == newest] or [_NOTHING_TOLD]
        sessions = self.sessions.get(person, {})
        rest = {
            "sign_ins": sorted(sessions),
            "last_login_at": max(sessions.values(), default=None),
            "is_deleted": person in self.gone,
            "local_fields": sorted(self.local.get(person, {})),
        }
        states = [{**content, **self.local.get(person, {}), **rest} for content in candidates]
        return [state | {"status": "deactivated"} if person in self.gone else state for state in states]


_NOTHING_TOLD: Final[dict[str, Any]] = {
    "first_name": None,
    "last_name": None,
    "email": None,
    "email_verified": False,
    "status": "active",
}


def _seconds(moment: int) -> float:
    return moment / 1000 if moment > 100_000_000_000 else float(moment)


def _visible(user: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a Clerk user that the service's state shows, by the service's names."""
    address: dict[str, Any] = user["email_addresses"][0] if user["email_addresses"] else {}
    status = "suspended" if user["banned"] or user["locked"] else "active"
    return {
        "first_name": user["first_name"],
        "last_name": user["last_name"],
        "email": address.get("email_address"),
        "email_verified": address.get("verification", {}).get("status") == "verified",
        "status": "deactivated" if user["deprovisioned"] else status,
    }


def _comparable(state: dict[str, Any]) -> dict[str, Any]:
    names = (*_NOTHING_TOLD, "is_deleted", "local_fields")
    last = state["last_login_at"]
    sign_ins = sorted(session_id for _, session_id, _ in state["sign_ins"])
    rest = {"sign_ins": sign_ins, "last_login_at": last.timestamp() if last else None}
    return {name: state[name] for name in names} | rest


@dataclass
class Post:
    """Delivers events to the service in random orders, edits users and runs sweeps, and records in the model what
    arrived."""

    container: Container
    draw: Any
    heard: Heard = field(default_factory=Heard)

    async def deliver(self, events: list[tuple[int, Event]]) -> None:
        """Deliver the events in a random order, some twice, some at the same moment, with edits in between."""
        repeated = self.draw(st.lists(st.sampled_from(events), max_size=4)) if events else []
        waiting = list(self.draw(st.permutations(events + repeated)))
        while waiting:
            together = self.draw(st.integers(1, 4))
            batch, waiting = waiting[:together], waiting[together:]
            accepted = await asyncio.gather(*(deliver(self.container, one, f"msg_{n}") for n, one in batch))
            assert all(one.applied for one in accepted)
            for _, one in batch:
                self.heard.hear(one)
            if self.draw(st.booleans()):
                await self._edit(*self.draw(_edits))

    async def _edit(self, number: int, edit: dict[str, str | None]) -> None:
        person = f"user_{number}"
        try:
            await self.container.users.profiles.update_user(
                TESTER, person, UserUpdate.model_validate(edit), expected=None
            )
        except UserNotFoundError:
            assert not self.heard.edit(person, edit)
        else:
            assert self.heard.edit(person, edit)

    async def reconcile(self, world: World) -> None:
        """Run a sweep against a sandbox that holds what is true now, and record in the model what the sweep read.
        Asserts that a second sweep finds nothing more."""
        sandbox = Sandbox(base_url=SANDBOX_URL)
        for person in world.people.keys() - world.gone:
            fields = {**world.people[person], "updated_at": START + world.updated_at[person]}
            user = sandbox.clerk.create_user(user_id=person, image_url=IMAGE, **fields)
            self.heard.known.add(person)
            self.heard.news.setdefault(person, []).append((_seconds(user["updated_at"]), _NOW, _visible(user)))
        async with _swept(self.container, sandbox):
            drift = await build_reconciliation(self.container).sweep(TESTER, repair=True)
            again = await build_reconciliation(self.container).sweep(TESTER, repair=True)
        assert (drift.unreadable, drift.deletions_held_back) == (0, 0)
        assert again.found == 0
        # A known user who is not at Clerk counts as deleted there; a session alone makes no user at Clerk.
        self.heard.gone |= self.heard.known - (world.people.keys() - world.gone)


_NOW: Final = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


@asynccontextmanager
async def _swept(container: Container, sandbox: Sandbox) -> AsyncIterator[None]:
    """Let a sweep find `sandbox` in place of Clerk for the block."""
    async with create_http_client(httpx.ASGITransport(app=create_app(sandbox))) as http:
        with pytest.MonkeyPatch.context() as monkeypatch:
            replace_in_group(monkeypatch, container, "resources", issuer_http=http)
            yield


def _in_some_unit(draw: Any, told: Event) -> Event:
    """Return the event with its `timestamp` in milliseconds or in seconds, at random: Clerk's documentation and its
    examples differ in the unit."""
    return told if draw(st.booleans()) else {**told, "timestamp": told["timestamp"] // 1000}


async def _tell(container: Container, owner: "Owner[asyncpg.Record]", draw: Any, *, losses: bool) -> None:
    """Deliver one random history, and assert that it ends where the model says. With `losses` only some events arrive,
    a sweep repairs the rest, and some of the lost ones arrive after it."""
    await owner.execute("DELETE FROM users; DELETE FROM webhook_events")
    world = World()
    for number, change, wait in draw(st.lists(_steps, min_size=1, max_size=24)):
        # With losses no two steps are of one moment: what a sweep reads has no finer time to order them by.
        world.happen(number, change, max(wait, 1) if losses else wait)
    numbered = [(number, _in_some_unit(draw, one)) for number, one in enumerate(world.events)]
    post = Post(container, draw)

    if losses:
        arrives = [one for one in numbered if draw(st.booleans())]
        late = [one for one in numbered if one not in arrives and draw(st.booleans())]
        await post.deliver(arrives)
        await post.reconcile(world)
        await post.deliver(late)
    else:
        await post.deliver(numbered)

    found = await states(owner)
    assert found.keys() == post.heard.known
    for person, state in found.items():
        assert _comparable(state) in post.heard.expected(person), person


_GENEROUS: Final = settings(
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@_GENEROUS
@given(drawn=st.data())
async def test_history_told_badly_but_wholly_ends_where_the_model_says(
    container: Container, owner: "Owner[asyncpg.Record]", drawn: st.DataObject
) -> None:
    await _tell(container, owner, drawn.draw, losses=False)


@_GENEROUS
@given(drawn=st.data())
async def test_history_told_with_losses_is_made_whole_by_a_sweep(
    container: Container, owner: "Owner[asyncpg.Record]", drawn: st.DataObject
) -> None:
    await _tell(container, owner, drawn.draw, losses=True)
