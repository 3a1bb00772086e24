"""The access matrix: all kinds of callers, and the HTTP status that each of them must get from each route."""

from collections.abc import Callable, Mapping
from typing import Final

Answers = dict[str, int]
"""The status that each caller gets, by the caller's name."""

INACTIVE: Final = ("suspended user", "deactivated user", "deleted user")
USERS: Final = ("owner", "other user", "admin", "impersonated", "impersonated admin")
"""Callers with a valid session. The session of an impersonated administrator carries no administrator's rights."""
SERVICES: Final = ("granted service", "reading service", "searching service", "managing service", "admin service")
REFUSED: Final = (
    # No credential, or one that is good nowhere.
    "anonymous",
    "expired session",
    "session of another issuer",
    "session of another origin",
    "session without an origin",
    "session signed by another key",
    "unsigned session",
    "session signed with the public key as a secret",
    # Tokens of other kinds.
    "template token without a session",
    "id token",
    "access token of OAuth",
    "machine token",
    "encrypted token",
    "session in the key header",
    "session and key at once",
    "revoked key",
    "expired key",
    "key of a disabled service",
    "key with another secret",
    "signed webhook",
)
SUBJECTS: Final = (*USERS, *INACTIVE, "pending session", *SERVICES, *REFUSED)


def _door(*, users: int, services: int, **others: int) -> Answers:
    """Build the answers of a route: 401 for refused callers, `users` and `services` for the callers of these groups,
    and 403 for users who may not act (401 if `users` is 401). `others` gives the answers for single callers; blanks in
    their names are written as underscores."""
    answers = dict.fromkeys(SUBJECTS, 401) | dict.fromkeys(USERS, users) | dict.fromkeys(SERVICES, services)
    if users != 401:
        answers |= dict.fromkeys((*INACTIVE, "pending session"), 403)
    return answers | {name.replace("_", " "): status for name, status in others.items()}


def anybody(status: int) -> Answers:
    """Return the answers of a route that checks no credential."""
    return dict.fromkeys(SUBJECTS, status)


def own(status: int) -> Answers:
    """Return the answers of a route that only the user in the path may use, also in an impersonated session. All other
    active users, administrators included, get 404; services get 401."""
    return _door(users=404, services=401, owner=status, impersonated=status)


def own_in_person(status: int) -> Answers:
    """Return the answers of a route that only the user in the path may use; impersonated sessions get 403."""
    return own(status) | {"impersonated": 403, "impersonated admin": 403}


def users(status: int) -> Answers:
    """Return the answers of a route that every active user may use, and no service."""
    return _door(users=status, services=401)


def admins(status: int) -> Answers:
    """Return the answers of a route that only administrators and services with the permission `admin` may use; all
    others with a valid credential get 403."""
    return _door(users=403, services=403, admin=status, admin_service=status)


def admins_and(service: str) -> Callable[[int], Answers]:
    """Return a function from a status to the answers of a route that administrators, services with the permission
    `admin` and the caller `service` may use."""

    def door(status: int) -> Answers:
        return admins(status) | {service: status}

    return door


def services_with(service: str) -> Callable[[int], Answers]:
    """Return a function from a status to the answers of a route that only the caller `service` and services with the
    permission `admin` may use."""

    def door(status: int) -> Answers:
        return _door(users=401, services=403, admin_service=status) | {service: status}

    return door


def granted_services(status: int) -> Answers:
    """Return the answers of a route that only services with a grant for the provider may use; services without one get
    403, whatever their permissions."""
    return _door(users=401, services=403, granted_service=status)


def clerk(status: int) -> Answers:
    """Return the answers of a route that accepts only Clerk's signed webhooks; all other callers get 400, because the
    headers of a webhook are missing."""
    return dict.fromkeys(SUBJECTS, 400) | {"signed webhook": status}


DOORS: Final[Mapping[str, Answers]] = {
    "GET /health": anybody(200),
    "GET /ready": anybody(200),
    "GET /metrics": anybody(200),
    "GET /oauth/callback/{provider}": anybody(303),
    "GET /users/{user_id}": own(200),
    "PATCH /users/{user_id}": own(200),
    "PUT /users/{user_id}": own(200),
    "DELETE /users/{user_id}": own_in_person(200),
    "GET /auth/me": users(200),
    "GET /users/search": admins_and("searching service")(200),
    "GET /providers": users(200),
    "GET /users/{user_id}/integrations": own(200),
    "GET /users/{user_id}/integrations/{provider}": own(200),
    "PATCH /users/{user_id}/integrations/{provider}": own(200),
    "PUT /users/{user_id}/integrations/{provider}": own(200),
    "DELETE /users/{user_id}/integrations/{provider}": own_in_person(200),
    "PUT /users/{user_id}/integrations/{provider}/refresh": own(200),
    "GET /users/{user_id}/integrations/{provider}/activity": own(200),
    "GET /users/{user_id}/integrations/{provider}/diagnose": own(200),
    "POST /users/{user_id}/integrations/{provider}/authorize": own_in_person(201),
    "POST /users/{user_id}/integrations/{provider}": own_in_person(201),
    "POST /webhooks/clerk": clerk(200),
    "POST /internal/tokens/get": granted_services(200),
    "POST /internal/tokens/refresh": granted_services(200),
    # A batch is answered with 200, since each member has a token or a problem of its own.
    "POST /internal/tokens/batch-get": _door(users=401, services=200),
    # A missing grant is 400 here, as every error of OAuth but one (RFC 6749 section 5.2).
    "POST /internal/oauth/token": _door(users=401, services=400, granted_service=200),
    "POST /internal/users/batch-get": services_with("reading service")(200),
    "GET /admin/users": admins(200),
    "GET /admin/users/deleted": admins(200),
    "GET /admin/users/{user_id}": admins(200),
    "DELETE /admin/users/{user_id}": admins(200),
    "GET /admin/users/{user_id}/integrations/{provider}/diagnose": admins(200),
    "POST /admin/users/{user_id}/suspend": admins(200),
    "POST /admin/users/{user_id}/unsuspend": admins(200),
    "POST /admin/users/{user_id}/restore": admins(200),
    "POST /admin/services": admins(201),
    "GET /admin/services": admins(200),
    "GET /admin/services/{name}": admins(200),
    "PUT /admin/services/{name}/permissions": admins(200),
    "PUT /admin/services/{name}/grants/{provider}": admins(200),
    "DELETE /admin/services/{name}/grants/{provider}": admins(204),
    "POST /admin/services/{name}/keys": admins(201),
    "DELETE /admin/services/{name}/keys/{key_id}": admins(204),
    "POST /admin/services/{name}/disable": admins(200),
    "POST /admin/services/{name}/enable": admins(200),
    "POST /admin/services/{name}/revoke": admins(200),
    "POST /webhook-subscriptions": admins_and("managing service")(201),
    "GET /webhook-subscriptions": admins_and("managing service")(200),
    "GET /webhook-subscriptions/{subscription_id}": admins_and("managing service")(200),
    "PATCH /webhook-subscriptions/{subscription_id}": admins_and("managing service")(200),
    "DELETE /webhook-subscriptions/{subscription_id}": admins_and("managing service")(204),
    "POST /webhook-subscriptions/{subscription_id}/rotate-secret": _door(users=403, services=403, managing_service=201),
    "POST /webhook-subscriptions/{subscription_id}/test": admins_and("managing service")(202),
    "GET /webhook-subscriptions/{subscription_id}/deliveries": admins_and("managing service")(200),
    "POST /webhook-subscriptions/{subscription_id}/replay": admins_and("managing service")(202),
}
"""The answers of every route to all callers."""
