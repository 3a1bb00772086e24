"""Reads the organisation in which a session acts from Clerk's claims. The claims come in two versions; both are
turned into the same `Organization`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ROLE: Final = re.compile(r"org:[A-Za-z0-9_-]{1,128}")
_PERMISSION: Final = re.compile(r"org:[A-Za-z0-9_-]{1,128}:[A-Za-z0-9_-]{1,128}")
_BITMASK: Final = re.compile(r"[0-9]{1,24}")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Organization:
    """An organisation, with the user's role (`org:admin`) and permissions (`org:feature:permission`) in it."""

    id: str
    slug: str | None
    role: str
    permissions: tuple[str, ...]


def read_organization(claims: Mapping[str, Any]) -> Organization | None:
    """Return the active organisation; None for a personal session.

    Only the claims of the version that the token states are read: in version 2 `org_role` is a name that customers may
    fill as they like. Claims that cannot be understood give None: an unknown version silently, anything else with a
    warning in the log. Such claims only ever add rights, so none is the safe reading, while refusing the token would
    sign everybody out when Clerk adds something.
    """
    version = claims.get("v", 1)
    try:
        if type(version) is int and version == 2:
            return _version_2(claims)
        return _version_1(claims) if type(version) is int and version == 1 else None
    except ValueError as error:
        log.warning("session_organization.ignored", reason=str(error))
        return None


def _version_1(claims: Mapping[str, Any]) -> Organization | None:
    if claims.get("org_id") is None:
        return None
    permissions = claims.get("org_permissions") or []
    if not isinstance(permissions, list):
        raise ValueError("org_permissions is not a list")
    return Organization(
        id=_matching(_NAME, claims["org_id"], "org_id"),
        slug=_slug(claims.get("org_slug")),
        role=_matching(_ROLE, claims.get("org_role"), "org_role"),
        permissions=tuple(_matching(_PERMISSION, permission, "org_permissions") for permission in permissions),
    )


def _version_2(claims: Mapping[str, Any]) -> Organization | None:
    organization = claims.get("o")
    if organization is None:
        return None
    if not isinstance(organization, dict):
        raise ValueError("o is not an object")
    return Organization(
        id=_matching(_NAME, organization.get("id"), "o.id"),
        slug=_slug(organization.get("slg")),
        role="org:" + _matching(_NAME, organization.get("rol"), "o.rol"),
        permissions=_unpacked(
            _organization_features(claims.get("fea")),
            _words(organization.get("per"), _NAME, "o.per"),
            [int(word) for word in _words(organization.get("fpm"), _BITMASK, "o.fpm")],
        ),
    )


def _unpacked(features: list[str], names: list[str], bitmasks: list[int]) -> tuple[str, ...]:
    """Return the permissions that the bitmasks in `fpm` select: one bitmask per feature of the organisation, over the
    names in `per`, the least significant bit first. Raises ValueError if a bitmask has no feature or a bit no name."""
    if len(bitmasks) > len(features) or any(bitmask >> len(names) for bitmask in bitmasks):
        raise ValueError("o.fpm does not fit fea and o.per")
    return tuple(
        f"org:{feature}:{name}"
        for feature, bitmask in zip(features, bitmasks, strict=False)
        for position, name in enumerate(names)
        if bitmask >> position & 1
    )


def _organization_features(features: Any) -> list[str]:
    """Return the features whose scope has an `o`: of `o:dashboard,u:export,uo:teams` these are `dashboard`, `teams`.
    Raises ValueError for a name of another form."""
    entries = [word.strip().partition(":") for word in _text(features, "fea").split(",") if word.strip()]
    return [_matching(_NAME, name, "fea") for scope, _, name in entries if "o" in scope]


def _words(value: Any, form: re.Pattern[str], name: str) -> list[str]:
    return [_matching(form, word.strip(), name) for word in _text(value, name).split(",") if word.strip()]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str | None):
        raise ValueError(f"{name} is not text")
    return value or ""


def _slug(value: Any) -> str | None:
    return None if value is None else _matching(_NAME, value, "slug")


def _matching(form: re.Pattern[str], value: Any, name: str) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{name} has an unknown form")
    return value
