"""Tests of Clerk's session cookie: each use must come from a page of ours, since a browser sends the cookie by itself;
and cookies that others have planted are passed over."""

import pytest
from starlette.requests import cookie_parser

from services.devstack.main_job import Person
from services.user_management.auth import credentials
from services.user_management.tests.conftest import API_URL
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import assert_problem

FRONTEND = "https://app.example.com"
OTHERS = ["https://evil.example", "null", "", "*", f"{FRONTEND}.evil.example", f"{FRONTEND}/", "http://app.example.com"]
OWN_PAGE = {"sec-fetch-site": "same-origin"}
OWN_ORIGIN = {"origin": API_URL}
CHANGE = {"first_name": "Augusta"}


@pytest.fixture(autouse=True)
def frontend(journey: Journey, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure one front end that may call us from another origin, and the cookie suffix of our Clerk instance."""
    monkeypatch.setattr(journey.container.resources.settings.clerk, "cookie_suffix", "a1B2c3D4")
    monkeypatch.setattr(journey.container.resources.settings.frontend, "origins", [FRONTEND])


@pytest.fixture
async def ada(journey: Journey) -> Person:
    return await journey.sign_up()


def token(person: Person) -> str:
    return person.headers["Authorization"].removeprefix("Bearer ")


def cookie(person: Person, name: str = "__session") -> dict[str, str]:
    return {"cookie": f"{name}={token(person)}"}


@pytest.mark.parametrize("name", ["__session", "__session_a1B2c3D4"])
@pytest.mark.parametrize("site", ["same-origin", "none"])
async def test_read_from_a_page_of_ours_is_answered(journey: Journey, ada: Person, name: str, site: str) -> None:
    headers = cookie(ada, name) | {"sec-fetch-site": site}

    response = await journey.client.get("/users/me", headers=headers)

    assert (response.status_code, response.json()["id"]) == (200, ada.id)


@pytest.mark.parametrize("site", [None, "cross-site", "same-site", "", "Same-Origin", "same-origin, none", "*"])
async def test_read_from_another_site_is_refused(journey: Journey, ada: Person, site: str | None) -> None:
    headers = cookie(ada) | ({} if site is None else {"sec-fetch-site": site}) | OWN_ORIGIN

    assert_problem(await journey.client.get("/users/me", headers=headers), 403, "cross_site_request")


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("origin", [API_URL, FRONTEND])
async def test_change_from_an_allowed_origin_is_made(journey: Journey, ada: Person, method: str, origin: str) -> None:
    headers = cookie(ada) | {"origin": origin}

    response = await journey.client.request(method, "/users/me", headers=headers, json=CHANGE)

    assert (response.status_code, response.json()["first_name"]) == (200, "Augusta")


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
@pytest.mark.parametrize("origin", [None, *OTHERS])
async def test_change_from_another_origin_is_refused(
    journey: Journey, ada: Person, method: str, origin: str | None
) -> None:
    # `Sec-Fetch-Site: same-origin`, which is enough for a read, is not enough for a change.
    headers = cookie(ada) | OWN_PAGE | ({} if origin is None else {"origin": origin})

    response = await journey.client.request(method, "/users/me", headers=headers, json=CHANGE)

    assert_problem(response, 403, "cross_site_request")
    assert (await journey.client.get("/users/me", headers=ada.headers)).json()["first_name"] == "Ada"


@pytest.mark.parametrize("second", [API_URL, "https://evil.example"])
async def test_change_with_two_origins_is_refused(journey: Journey, ada: Person, second: str) -> None:
    headers = [*cookie(ada).items(), ("origin", API_URL), ("origin", second)]

    response = await journey.client.patch("/users/me", headers=headers, json=CHANGE)

    assert_problem(response, 403, "cross_site_request")


async def test_connecting_an_account_from_another_origin_is_refused(journey: Journey, ada: Person) -> None:
    path = "/users/me/integrations/sandbox-static/authorize"

    response = await journey.client.post(path, headers=cookie(ada) | {"origin": OTHERS[0]}, json={"scopes": []})

    assert_problem(response, 403, "cross_site_request")


async def test_guards_of_admins_take_the_cookie_as_strictly(journey: Journey, ada: Person) -> None:
    headers = cookie(ada) | {"sec-fetch-site": "cross-site"}

    assert_problem(await journey.client.get("/admin/users", headers=headers), 403, "cross_site_request")
    assert_problem(await journey.client.get("/admin/users", headers=cookie(ada) | OWN_PAGE), 403, "forbidden")


@pytest.mark.parametrize(
    "cookies",
    [
        "__session={bob}; __session_a1B2c3D4={ada}",
        "__session_a1B2c3D4={bob}; __session={ada}",
        # The same name twice: of another domain, or of another path.
        "__session={bob}; __session={ada}",
        "__session_a1B2c3D4={ada}; theme=dark; __session_a1B2c3D4={bob}",
    ],
)
async def test_cookies_of_two_users_are_refused(journey: Journey, ada: Person, cookies: str) -> None:
    bob = await journey.sign_up("bob@example.com")
    headers = {"cookie": cookies.format(ada=token(ada), bob=token(bob))} | OWN_PAGE

    assert_problem(await journey.client.get("/users/me", headers=headers), 401, "unauthenticated")


async def test_cookies_of_two_users_in_two_headers_are_refused(journey: Journey, ada: Person) -> None:
    bob = await journey.sign_up("bob@example.com")
    headers = [*cookie(ada).items(), *cookie(bob).items(), *OWN_PAGE.items()]

    assert_problem(await journey.client.get("/users/me", headers=headers), 401, "unauthenticated")


async def test_cookie_planted_under_another_suffix_is_nobody(journey: Journey, ada: Person) -> None:
    mallory = await journey.sign_up("mallory@example.com")
    planted = f"__session_a1B2c3D4_longer={token(mallory)}"

    alone = await journey.client.get("/users/me", headers={"cookie": planted} | OWN_PAGE)
    beside = await journey.client.get("/users/me", headers={"cookie": f"{planted}; __session={token(ada)}"} | OWN_PAGE)

    assert_problem(alone, 401, "unauthenticated")
    assert beside.json()["id"] == ada.id


async def test_suffixed_cookie_is_nobody_while_no_suffix_is_set(
    journey: Journey, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journey.container.resources.settings.clerk, "cookie_suffix", None)

    response = await journey.client.get("/users/me", headers=cookie(ada, "__session_a1B2c3D4") | OWN_PAGE)

    assert_problem(response, 401, "unauthenticated")


@pytest.mark.parametrize(
    "cookies",
    [
        "__session_a1B2c3D4=garbage; __session={}",
        "__session={}; __session_a1B2c3D4=a.b.c; theme=dark",
        "__session_a1B2c3D4={}; __session=a.b.c",
        "__session_a1B2c3D4={}; __session={}",
        "__session_other=; __session={}",
        "__session={}; " + "; ".join(f"__session_{number}=garbage" for number in range(50)),
    ],
)
async def test_cookies_of_other_instances_are_passed_over(journey: Journey, ada: Person, cookies: str) -> None:
    headers = {"cookie": cookies.replace("{}", token(ada))} | OWN_PAGE

    assert (await journey.client.get("/users/me", headers=headers)).json()["id"] == ada.id


async def test_pairs_too_short_for_a_token_are_not_parsed(
    journey: Journey, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def parse(pair: str) -> dict[str, str]:
        parsed.append(pair)
        return cookie_parser(pair)

    monkeypatch.setattr(credentials, "cookie_parser", parse)
    cookies = ";" * 20_000 + "a;" * 10_000 + "__session=x;" * 1000 + f"__session={token(ada)}"

    response = await journey.client.get("/users/me", headers={"cookie": cookies} | OWN_PAGE)

    assert (response.status_code, parsed) == (200, [f"__session={token(ada)}"])


def forgeries(person: Person, count: int) -> list[str]:
    """Make `count` cookies that differ from the person's own only in the signature."""
    signed, _, signature = token(person).rpartition(".")
    return [f"__session={signed}.{number:08}{signature[8:]}" for number in range(count)]


async def test_genuine_cookie_among_planted_ones_is_found(journey: Journey, ada: Person) -> None:
    garbage = [f"__session=garbage{number}" for number in range(1000)]
    cookies = [*garbage, *forgeries(ada, 16), *cookie(ada).values()]

    response = await journey.client.get("/users/me", headers={"cookie": "; ".join(cookies)} | OWN_PAGE)

    assert (response.status_code, response.json().get("id")) == (200, ada.id)


async def test_too_many_values_of_our_cookie_are_not_tried_one_by_one(journey: Journey, ada: Person) -> None:
    cookies = [*forgeries(ada, 64), *cookie(ada).values()]

    response = await journey.client.get("/users/me", headers={"cookie": "; ".join(cookies)} | OWN_PAGE)
    guess = await journey.client.get("/users/me", headers={"cookie": cookies[0]} | OWN_PAGE)

    assert_problem(response, 401, "unauthenticated")
    # The values are not the user's doing, so their number does not count as a guess.
    assert ["ratelimit" in one.headers for one in (response, guess)] == [False, True]


@pytest.mark.parametrize(
    "cookies",
    [
        "__session=garbage",
        "__session=",
        "__session",
        "__session=a.b.c; __session_a1B2c3D4=d.e.f",
        "session={}",
        "__Session={}",
        "__sessions={}",
        "__client_uat=1; __clerk_db_jwt={}",
        '__session="{}x"',
        "__session={}{}",
        "__session=Bearer {}",
    ],
)
async def test_cookie_that_is_no_session_is_unauthenticated(journey: Journey, ada: Person, cookies: str) -> None:
    headers = {"cookie": cookies.replace("{}", token(ada))} | OWN_PAGE

    assert_problem(await journey.client.get("/users/me", headers=headers), 401, "unauthenticated")


async def test_expired_cookie_is_unauthenticated(journey: Journey, ada: Person) -> None:
    old = journey.sandbox.clerk.session_token(ada.id, issued_at=1_000_000_000)

    response = await journey.client.get("/users/me", headers={"cookie": f"__session={old}"} | OWN_PAGE)

    assert_problem(response, 401, "unauthenticated")


async def test_authorization_wins_over_the_cookie(journey: Journey, ada: Person) -> None:
    bob = await journey.sign_up("bob@example.com")

    good = await journey.client.get("/users/me", headers=cookie(bob) | ada.headers)
    bad = await journey.client.get("/users/me", headers=cookie(bob) | OWN_PAGE | {"authorization": "Bearer garbage"})
    empty = await journey.client.get("/users/me", headers=cookie(bob) | OWN_PAGE | {"authorization": ""})

    assert good.json()["id"] == ada.id
    assert_problem(bad, 401, "unauthenticated")
    assert_problem(empty, 401, "unauthenticated")


async def test_cookie_is_no_credential_of_a_service(journey: Journey, ada: Person) -> None:
    key = (await journey.service_key())["Authorization"].removeprefix("Bearer ")
    headers = {"cookie": f"__session={key}"} | OWN_ORIGIN

    response = await journey.client.post("/internal/users/batch-get", headers=headers, json={"user_ids": [ada.id]})

    assert_problem(response, 401, "unauthenticated")
