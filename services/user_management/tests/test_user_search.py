"""Tests of `/users/search`, compared with a model of it: what matches, in which order, pages that neither lose nor
repeat anybody, and who may search."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from services.user_management.enums import UpstreamStatus
from services.user_management.services.user_service import UpstreamUser
from services.user_management.tests.actors import TESTER
from services.user_management.tests.conftest import ADMIN_USER_ID
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Headers, assert_problem
from services.user_management.utils.validators import normalize_email, search_key

SEED = 20_240_501
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
NAMES = (
    *("Ada", "ada", "ADA", "Adam", "\u00c0d\u00e0", "Adela\u00efde", "Zo\u00eb", "Zoe\u0308", "Stra\u00dfe", "STRASSE"),
    *(
        "\ufb01ona",
        "Fiona",
        "\u0141ukasz",
        "\u674e",
        "O'Brien",
        "100%",
        "100 %",
        "1000",
        "a_b",
        "axb",
        "a\\b",
        "\u0130pek",
    ),
    *("van der Berg", "Van  Der Berg", "vandyke", "\U0001f600", "\u00e9", "e\u0301tienne"),
)


@dataclass(frozen=True)
class Known:
    """A user of the model."""

    id: str
    email: str | None
    first_name: str | None
    last_name: str | None
    status: str
    created_at: datetime
    deleted: bool

    def matched(self, q: str) -> str | None:
        """Return the first of e-mail, last name and first name that begins with `q`, in the form by which the search
        sorts; None if none does."""
        address = normalize_email(self.email) if self.email else ""
        # Also without accents: whoever types "Émile" looks for emile@… too.
        folded = search_key(q) if "@" not in q else ""
        if address and (address.startswith(normalize_email(q)) or (folded and address.startswith(folded))):
            return address
        for name in (self.last_name, self.first_name):
            if name and "@" not in q and search_key(name).startswith(search_key(q)):
                return search_key(name)
        return None


@dataclass(frozen=True)
class Question:
    q: str | None = None
    status: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    def parameters(self) -> dict[str, str]:
        times = {"created_after": self.created_after, "created_before": self.created_before}
        texts = {"q": self.q, "status": self.status}
        return {name: value for name, value in texts.items() if value is not None} | {
            name: moment.isoformat() for name, moment in times.items() if moment is not None
        }

    def answer(self, people: list[Known]) -> list[str]:
        """Return the ids of those of `people` who match, in the order in which the search has to list them."""
        wanted = [
            person
            for person in people
            if not person.deleted
            and self.status in (None, person.status)
            and (self.created_after is None or person.created_at >= self.created_after)
            and (self.created_before is None or person.created_at < self.created_before)
        ]
        if self.q is None:
            return [one.id for one in sorted(wanted, key=lambda one: (one.created_at, one.id), reverse=True)]
        matching = [(key.encode(), one.id) for one in wanted if (key := one.matched(self.q)) is not None]
        return [user_id for _, user_id in sorted(matching)]


def _invent(chance: random.Random, number: int) -> Known:
    first, last = chance.choice((*NAMES, None)), chance.choice((*NAMES, None))
    # Few addresses: several users may share one, and it may begin as a name does.
    local = chance.choice(("ada", "adam", "zoe", "fiona", "100%", "a_b", "\u00e9tienne", f"person{number % 20}"))
    return Known(
        id=f"user_{number:04}{chance.choice('aZ_-')}",
        email=chance.choice((f"{local}@example.com", f"{local.upper()}@Example.com", None)),
        first_name=first,
        last_name=last,
        status=chance.choice(("active", "active", "suspended", "deactivated")),
        created_at=EPOCH + timedelta(days=chance.randrange(12)),
        deleted=chance.random() < 0.2,
    )


async def populate(journey: Journey, people: list[Known]) -> None:
    """Store the model's users as news from upstream, which computes the search keys; then set when they were created,
    and mark the deleted ones."""
    async with journey.container.resources.unit_of_work(TESTER) as uow:
        for person in people:
            await journey.container.users.upstream.apply(
                uow,
                UpstreamUser(
                    issuer=journey.sandbox.clerk.issuer,
                    subject=person.id,
                    email=person.email,
                    email_verified=True,
                    first_name=person.first_name,
                    last_name=person.last_name,
                    profile_image_url=None,
                    phone=None,
                    status=UpstreamStatus(person.status),
                    updated_at=EPOCH,
                    told_at=EPOCH,
                ),
            )
    await journey.owner.executemany(
        "UPDATE users SET created_at = $2, deleted_at = CASE WHEN $3 THEN now() END WHERE id = $1",
        [(person.id, person.created_at, person.deleted) for person in people],
    )


@pytest.fixture
async def searcher(journey: Journey) -> Headers:
    """Headers of a service that may search. Unlike an administrator's sign-in, its calls create no user."""
    return {"X-API-Key": await journey.container.service_clients.create_service(TESTER, "crm", ["users:search"])}


async def search(journey: Journey, headers: Headers, **parameters: Any) -> httpx.Response:
    return await journey.client.get("/users/search", headers=headers, params=parameters)


async def walk(journey: Journey, headers: Headers, parameters: dict[str, str], limit: int) -> list[str]:
    """Return the ids on all pages of a search, in order; assert that every page but the last is full."""
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        response = await search(journey, headers, **parameters, **cursor, limit=limit)
        assert response.status_code == 200, response.text
        page = response.json()
        found += [user["id"] for user in page["items"]]
        if page["next_cursor"] is None:
            return found
        assert len(page["items"]) == limit
        cursor = {"cursor": page["next_cursor"]}


def _ask(chance: random.Random, people: list[Known]) -> Question:
    person = chance.choice(people)
    text = chance.choice((person.email, person.first_name, person.last_name, None))
    # A prefix of the kept form; what is typed may differ in case.
    q = text and chance.choice((str.upper, str.lower, str))(text[: chance.randint(1, len(text))]).strip()
    after, before = (EPOCH + timedelta(days=chance.randrange(12)) for _ in range(2))
    return Question(
        q=q or None,
        status=chance.choice((None, None, "active", "suspended", "pending_verification")),
        created_after=chance.choice((None, None, after)),
        created_before=chance.choice((None, None, before)),
    )


@pytest.mark.slow
async def test_search_finds_what_the_model_finds_in_its_order(journey: Journey, searcher: Headers) -> None:
    chance = random.Random(SEED)  # noqa: S311 - reproducible, not secret
    people = [_invent(chance, number) for number in range(200)]
    await populate(journey, people)
    questions = [Question(), Question(q="ada"), Question(q="a"), Question(q="zoe"), Question(q="100")]
    questions += [_ask(chance, people) for _ in range(60)]

    answers = [await walk(journey, searcher, one.parameters(), chance.choice((3, 7, 50, 200))) for one in questions]

    assert len(questions[1].answer(people)) > 20
    for question, answer in zip(questions, answers, strict=True):
        assert answer == question.answer(people), question


def _person(number: int, email: str | None = None, first: str | None = None, last: str | None = None) -> Known:
    return Known(f"user_{number}", email, first, last, "active", EPOCH, deleted=False)


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("JOSE", ["user_1"]),
        ("jos\u00e9", ["user_1"]),
        ("jose\u0301@", ["user_1"]),
        ("strass", ["user_2"]),
        ("STRA\u1e9eE", ["user_2"]),
        ("van der", ["user_3"]),
        ("  Van   DER b", ["user_3"]),
        ("der", []),
        ("example", []),
        ("\uff21da", ["user_4"]),
        ("@", []),
    ],
)
async def test_prefix_is_compared_without_case_and_accents(
    journey: Journey, searcher: Headers, q: str, found: list[str]
) -> None:
    await populate(
        journey,
        [
            _person(1, "Jos\u00e9@Example.com", "Jos\u00e9"),
            _person(2, last="Stra\u00dfe"),
            _person(3, "v@example.com", last="van  der Berg"),
            _person(4, first="Ada"),
        ],
    )

    assert await walk(journey, searcher, {"q": q}, 10) == found


@pytest.mark.parametrize(
    ("q", "found"),
    [("100%", [1]), ("%", [4]), ("_", []), ("a_b", [2]), ("a\\", [3]), ("\\", []), ("*", []), ("a.b", []), ("'", [])],
)
async def test_characters_that_mean_something_to_sql_are_literal(
    journey: Journey, searcher: Headers, q: str, found: list[int]
) -> None:
    names = ["100x", "100%", "a_b", "a\\b", "%x", "axb"]
    await populate(journey, [_person(number, first=name) for number, name in enumerate(names)])

    assert await walk(journey, searcher, {"q": q}, 10) == [f"user_{number}" for number in found]


async def test_accents_alone_are_the_beginning_of_no_name(journey: Journey, searcher: Headers) -> None:
    await populate(journey, [_person(1, "ada@example.com", "Ada")])

    assert await walk(journey, searcher, {"q": "\u0301"}, 10) == []


async def test_pages_go_on_after_the_longest_keys(journey: Journey, searcher: Headers) -> None:
    longest = ["\U0001d49c" * 400, "\u674e" * 400, "\ufdfa" * 300]
    await populate(
        journey,
        [
            _person(number, f"{chr(0x4E00 + number) * 300}@example.com", first=name)
            for number, name in enumerate(longest)
        ]
        + [_person(10 + number, first="\u674e" * 400) for number in range(3)],
    )

    assert await walk(journey, searcher, {"q": "\u674e"}, 1) == ["user_1", "user_10", "user_11", "user_12"]
    assert await walk(journey, searcher, {"q": "\u4e01"}, 1) == ["user_1"]
    assert await walk(journey, searcher, {"q": "\u4e00\u4e00"}, 1) == ["user_0"]


async def test_search_shows_profiles_and_admins_see_more(journey: Journey, searcher: Headers, admin: Headers) -> None:
    ada = await journey.sign_up()

    (found,) = (await search(journey, searcher, q="ada@example.com")).json()["items"]
    (listed,) = (await journey.client.get("/admin/users", headers=admin, params={"q": "ada@ex"})).json()["items"]

    assert found == (await journey.client.get("/users/me", headers=ada.headers)).json() | {"last_active_at": None}
    assert listed.keys() > found.keys()


async def test_cursor_of_another_list_is_refused(journey: Journey, searcher: Headers) -> None:
    await populate(journey, [_person(number, first="Ada", last="Adam") for number in range(5)])
    cursor = (await search(journey, searcher, q="ada", limit=2)).json()["next_cursor"]

    for other in (
        {},
        {"q": "ad"},
        {"q": "ada", "status": "active"},
        {"q": "ada", "created_after": "2020-01-01T00:00:00Z"},
    ):
        assert_problem(await search(journey, searcher, **other, cursor=cursor), 422, "validation_failed")
    deleted = await journey.client.get(
        "/admin/users/deleted", headers=journey.headers_of(ADMIN_USER_ID), params={"cursor": cursor}
    )
    assert_problem(deleted, 422, "validation_failed")
    assert (await search(journey, searcher, q="ADA ", limit=3, cursor=cursor)).status_code == 200


def _flip(cursor: str) -> str:
    return cursor[:-3] + ("A" if cursor[-3] != "A" else "B") + cursor[-2:]


@pytest.mark.parametrize(
    "alter",
    [
        _flip,
        lambda c: c[1:],
        lambda c: c + "AAAA",
        lambda c: c + "!",
        lambda _: "garbage",
        lambda _: "\u00e9\x00",
        lambda c: c * 50,
    ],
)
async def test_cursor_that_is_not_ours_is_refused(
    journey: Journey, searcher: Headers, alter: Callable[[str], str]
) -> None:
    await populate(journey, [_person(number, first="Ada") for number in range(3)])
    cursor = (await search(journey, searcher, q="ada", limit=1)).json()["next_cursor"]

    assert_problem(await search(journey, searcher, q="ada", cursor=alter(cursor)), 422, "validation_failed")


@pytest.mark.parametrize(
    "parameters",
    [
        *({"limit": limit} for limit in ("0", "-1", "201", "1.5", "x", "", "1e1", "9" * 5000)),
        *({"status": status} for status in ("", "Active", "banned")),
        *({"q": q} for q in ("", " ", "a\x00", "a\nb", "\u202eada", "a" * 201)),
        *({"created_after": time} for time in ("yesterday", "2024-01-01T00:00:00", "2024-13-01T00:00:00Z", "nan")),
        {"created_after": "9999-12-31T23:59:59-23:59"},
        {"created_before": "0001-01-01T00:00:00+23:59"},
    ],
)
async def test_question_that_makes_no_sense_is_refused(
    journey: Journey, searcher: Headers, parameters: dict[str, str]
) -> None:
    assert_problem(await search(journey, searcher, **parameters), 422, "validation_failed")


async def test_search_is_for_admins_and_permitted_services(journey: Journey, searcher: Headers, admin: Headers) -> None:
    ada = await journey.sign_up()
    services = journey.container.service_clients
    other = {"X-API-Key": await services.create_service(TESTER, "other", ["users:read"])}
    operations = {"X-API-Key": await services.create_service(TESTER, "operations", ["admin"])}

    for allowed in (searcher, admin, operations):
        assert (await search(journey, allowed, q="ada")).status_code == 200
    for forbidden in (ada.headers, other):
        assert_problem(await search(journey, forbidden, q="ada"), 403, "forbidden")
    assert_problem(await search(journey, {}, q="ada"), 401, "unauthenticated")
