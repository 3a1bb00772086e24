"""Tests that Clerk's events about users lead to one state, in whatever order they arrive, and all at once."""

import asyncio
import math
from typing import Any, Final

import asyncpg
import pytest

from services.user_management.container import Container
from services.user_management.tests.clerk_history import (
    Event,
    State,
    deleted,
    deliver,
    described,
    event,
    signed_in,
    state_of,
    states,
    updated,
)

Owner = asyncpg.Connection
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("clean_database")]

AT_ONCE: Final = 8
ADA: Final = "user_ada"
Order = tuple[int, ...]
COPIED: Final = (
    ("users", "id", "'id', twin"),
    ("user_identities", "user_id", "'user_id', twin, 'subject', twin"),
    ("user_preferences", "user_id", "'user_id', twin"),
    ("sign_ins", "user_id", "'user_id', twin, 'session_id', 'sess_' || twin"),
)
"""The tables of which `_twins` copies rows: the name, the column with the user's id, and the columns that differ in a
copy with their values (arguments of `jsonb_build_object`)."""


def _history(user_id: str, *, ends: str) -> list[Event]:
    """Return six events about one user; the last one deletes or unbans them. Without the first one, a change of name
    that the third repeats, the end is the same."""
    name = {"first_name": "Ada", "last_name": "Lovelace"}
    address = {"email": "Ada@Example.com", "phone": "+441632960000"}
    renamed = {**address, "first_name": "Augusta", "last_name": "King"}
    moved = {**renamed, "email": "countess@example.com", "email_verified": False}
    last = deleted(user_id, at=5000) if ends == "deleted" else updated(user_id, at=5000, **moved, banned=False)
    return [
        updated(user_id, at=1000, **renamed),
        event("user.created", described(user_id, at=0, **name, **address)),
        updated(user_id, at=2000, **moved),
        updated(user_id, at=3000, **moved, banned=True),
        signed_in(user_id, at=4000, session_id=f"sess_{user_id}"),
        last,
    ]


def _person(order: Order) -> str:
    return f"user_{''.join(map(str, order))}"


async def _tell_next(container: Container, order: Order, *, ends: str, gate: asyncio.Semaphore) -> None:
    async with gate:
        assert (await deliver(container, _history(_person(order), ends=ends)[order[-1]])).applied


async def _twins(owner: "Owner[asyncpg.Record]", orders: list[Order]) -> None:
    """Make a user for each order: a copy of the rows of the user to whom all events of that order but the last were
    delivered."""
    people = [_person(order[:-1]) for order in orders], [_person(order) for order in orders]
    for table, column, renamed in COPIED:
        await owner.execute(
            f"INSERT INTO {table} SELECT copy.* FROM unnest($1::text[], $2::text[]) AS twins (original, twin)"  # noqa: S608 - our own names
            f" JOIN {table} ON {table}.{column} = original,"
            f" LATERAL jsonb_populate_record({table}, jsonb_build_object({renamed})) AS copy",
            *people,
        )


def _anonymous(user_id: str, state: State) -> str:
    """Return the state as text, with the user's id replaced by a fixed one."""
    return repr(sorted(state.items())).replace(user_id, "ID")


@pytest.mark.parametrize("ends", ["deleted", "unbanned"])
@pytest.mark.parametrize("numbers", [range(1, 6), pytest.param(range(6), marks=pytest.mark.nightly)], ids=len)
async def test_history_ends_in_one_state_in_whatever_order_it_is_told(
    container: Container, owner: "Owner[asyncpg.Record]", numbers: range, ends: str
) -> None:
    """Deliver five events in all 120 orders, at night six in all 720. A beginning that several orders share is
    delivered once, and its rows are copied, since the service remembers nothing but rows: 325 events instead of 600,
    and 1,956 instead of 4,320."""
    gate = asyncio.Semaphore(AT_ONCE)
    orders: list[Order] = [()]
    for _ in numbers:
        orders = [(*order, number) for order in orders for number in numbers if number not in order]
        await _twins(owner, orders)
        await asyncio.gather(*(_tell_next(container, order, ends=ends, gate=gate) for order in orders))

    whole = {_person(order) for order in orders}
    found = {user_id: state for user_id, state in (await states(owner)).items() if user_id in whole}
    assert len(found) == math.factorial(len(numbers))
    assert len({_anonymous(user_id, state) for user_id, state in found.items()}) == 1
    state = found[_person(tuple(numbers))]
    assert (state["email"], state["email_verified"], state["first_name"]) == ("countess@example.com", False, "Augusta")
    assert (state["is_deleted"], state["status"]) == ((True, "deactivated") if ends == "deleted" else (False, "active"))
    assert len(state["sign_ins"]) == len(state["identities"]) == len(state["preferences"]) == 1
    assert state["last_login_at"] == state["sign_ins"][0][2]


async def _told(container: Container, owner: "Owner[asyncpg.Record]", *history: Event) -> State:
    """Delete all users and events, deliver `history`, and return Ada's state."""
    await owner.execute("DELETE FROM webhook_events; DELETE FROM users")
    for one in history:
        await deliver(container, one)
    return await state_of(owner, ADA)


async def test_two_descriptions_of_one_moment_end_alike_in_both_orders(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    first, second = updated(ADA, at=7, first_name="Ada"), updated(ADA, at=7, first_name="Augusta")

    forwards = await _told(container, owner, first, second)
    backwards = await _told(container, owner, second, first)

    assert forwards == backwards


async def test_of_one_moment_the_description_that_was_told_later_is_kept(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    earlier = updated(ADA, at=7, first_name="Ada")
    later = {**updated(ADA, at=7, first_name="Augusta"), "timestamp": earlier["timestamp"] + 1}

    forwards = await _told(container, owner, earlier, later)
    backwards = await _told(container, owner, later, earlier)

    assert forwards == backwards
    assert forwards["first_name"] == "Augusta"


async def test_times_in_seconds_and_in_milliseconds_are_one_order(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    in_milliseconds = updated(ADA, at=1000, first_name="Ada")
    in_seconds = updated(ADA, at=2000, first_name="Augusta")
    in_seconds["timestamp"] //= 1000
    in_seconds["data"]["updated_at"] //= 1000

    forwards = await _told(container, owner, in_milliseconds, in_seconds)
    backwards = await _told(container, owner, in_seconds, in_milliseconds)

    assert forwards == backwards
    assert forwards["first_name"] == "Augusta"


async def test_row_from_before_the_order_was_kept_whole_takes_the_same_news_and_newer(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, updated(ADA, at=5, first_name="Ada"))
    forget = "UPDATE users SET upstream_event_at = NULL, upstream_digest = NULL, upstream_profile = NULL"

    names = []
    for at, name in ((4, "Older"), (5, "Same"), (6, "Newer")):
        await owner.execute(forget)
        assert (await deliver(container, updated(ADA, at=at, first_name=name))).applied
        names.append((await state_of(owner, ADA))["first_name"])

    assert names == ["Ada", "Same", "Newer"]


async def test_events_of_one_user_all_at_once_end_in_the_newest(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    events = [updated(ADA, at=at, first_name=f"Name {at}") for at in range(20)]
    events += [signed_in(ADA, at=at, session_id=f"sess_{at % 5}") for at in range(20)]

    accepted = await asyncio.gather(*(deliver(container, one) for one in events))

    assert all(one.applied for one in accepted)
    state = await state_of(owner, ADA)
    assert (state["first_name"], len(state["sign_ins"])) == ("Name 19", 5)


async def test_addresses_swapped_both_ways_at_once_block_nobody(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    people = [f"user_{number}" for number in range(10)]
    addresses = [f"{person}@example.com" for person in people]
    events: list[Event] = []
    for at in range(4):
        addresses = addresses[1:] + addresses[:1]
        events += [updated(person, at=at, email=one) for person, one in zip(people, addresses, strict=True)]

    accepted = await asyncio.gather(*(deliver(container, one) for one in reversed(events)))

    assert all(one.applied for one in accepted)
    found: dict[str, Any] = {user_id: state["email"] for user_id, state in (await states(owner)).items()}
    assert found == dict(zip(people, addresses, strict=True))
    assert await owner.fetchval("SELECT count(*) FROM webhook_events WHERE error IS NOT NULL") == 0
