"""Tests of the organisation claims of Clerk's session tokens: both versions are read into the same form, and claims of
an unknown form name no organisation."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from services.user_management.security.organization import Organization
from services.user_management.tests.session_tokens import token, verifier

VERSION_1 = {
    "v": 1,
    "org_id": "org_1",
    "org_slug": "acme",
    "org_role": "org:admin",
    "org_permissions": ["org:dashboard:manage", "org:dashboard:read", "org:teams:read"],
}
VERSION_2 = {
    "v": 2,
    "fea": "u:export,o:dashboard,o:teams",
    "o": {"id": "org_1", "slg": "acme", "rol": "admin", "per": "manage,read", "fpm": "3,2"},
}
BOTH = Organization("org_1", "acme", "org:admin", ("org:dashboard:manage", "org:dashboard:read", "org:teams:read"))


async def _organization(claims: dict[str, Any]) -> Organization | None:
    return (await verifier().verify(token(**claims))).organization


@pytest.mark.parametrize("claims", [VERSION_1, VERSION_2], ids=["v1", "v2"])
async def test_organization_reads_the_same_in_both_versions(claims: dict[str, Any]) -> None:
    assert await _organization(claims) == BOTH


@pytest.mark.parametrize(
    ("features", "names", "bitmasks", "permissions"),
    [
        ("o:a,o:b,o:c", "x,y,z", "1,2,4", ("org:a:x", "org:b:y", "org:c:z")),
        ("o:a,o:b", "x,y", "0,3", ("org:b:x", "org:b:y")),
        ("o:a,o:b", "x", "1", ("org:a:x",)),
        ("uo:a,u:b,ou:c", "x", "1,1", ("org:a:x", "org:c:x")),
        ("o:a", "", "0", ()),
        ("", "", "", ()),
        (None, None, None, ()),
    ],
)
async def test_permissions_are_unpacked_bit_by_bit(
    features: Any, names: Any, bitmasks: Any, permissions: tuple[str, ...]
) -> None:
    claims = {"v": 2, "fea": features, "o": {"id": "org_1", "rol": "member", "per": names, "fpm": bitmasks}}

    assert await _organization(claims) == Organization("org_1", None, "org:member", permissions)


async def test_version_1_without_permissions_has_none() -> None:
    assert await _organization({"v": 1, "org_id": "o1", "org_role": "org:member"}) == Organization(
        "o1", None, "org:member", ()
    )


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"o": None},
        {"v": 1, "org_id": None, "org_role": "org:admin"},
        # A customer may give a claim of version 2 any of the old names, and fill it from what users write.
        {"v": 2, "org_id": "org_1", "org_role": "org:admin"},
        {**VERSION_2, "v": 1},
        {**VERSION_2, "v": 3},
        {**VERSION_2, "v": "2"},
        {**VERSION_1, "v": True},
    ],
)
async def test_claims_of_another_version_are_not_read(claims: dict[str, Any]) -> None:
    assert await _organization(claims) is None


@pytest.mark.parametrize(
    "change",
    [
        {"id": None},
        {"id": ""},
        {"id": 7},
        {"id": "org 1"},
        {"slg": 7},
        {"rol": None},
        {"rol": ""},
        {"rol": "org:admin"},
        {"rol": ["admin"]},
        {"per": ["manage", "read"]},
        {"per": "manage,re ad"},
        {"fpm": "3,2,1"},
        {"fpm": "4,1"},
        {"fpm": "3,-1"},
        {"fpm": "3,x"},
        {"fpm": "9" * 25},
        {"fpm": 3},
    ],
)
async def test_organization_of_an_unknown_form_is_none_and_the_token_holds(change: dict[str, Any]) -> None:
    organization = VERSION_2["o"]
    assert isinstance(organization, dict)

    with capture_logs() as logs:
        found = await _organization({**VERSION_2, "o": {**organization, **change}})

    assert found is None
    assert [entry["event"] for entry in logs] == ["session_organization.ignored"]


@pytest.mark.parametrize(
    "change",
    [
        {"org_id": 7},
        {"org_slug": []},
        {"org_role": None},
        {"org_role": "admin"},
        {"org_permissions": "org:a:b"},
        {"org_permissions": ["a:b"]},
        {"org_permissions": [7]},
    ],
)
async def test_version_1_organization_of_an_unknown_form_is_none(change: dict[str, Any]) -> None:
    assert await _organization({**VERSION_1, **change}) is None


@pytest.mark.parametrize("organization", [[], "org_1", 7, True])
async def test_organization_that_is_no_object_is_none(organization: Any) -> None:
    assert await _organization({**VERSION_2, "o": organization}) is None


@pytest.mark.parametrize("features", [7, ["o:dashboard"], "o:dash board,o:teams", "o,o"])
async def test_features_of_an_unknown_form_give_no_organization(features: Any) -> None:
    assert await _organization({**VERSION_2, "fea": features}) is None
