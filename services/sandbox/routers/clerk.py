"""The routes of the imitated Clerk: its public keys, its Backend API (401 without a secret key), and controls by which
tests and people make session tokens, rotate the signing key, change users and send events."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from services.sandbox.clerk.backend_api import UserList, count_users, get_user, list_users, with_secret_key
from services.sandbox.clerk.party import ClerkObject
from services.sandbox.dependencies import CurrentSandbox
from services.sandbox.errors import SandboxError
from services.sandbox.state import Sandbox

router = APIRouter(prefix="/clerk")


class SessionTokenRequest(BaseModel):
    """A session token to make. `overrides` replace or add claims (null removes one); some names stand for other parts
    of the token, see `build_session_token`."""

    user_id: str
    overrides: dict[str, Any] = Field(default_factory=dict)


class KeyRotation(BaseModel):
    """A rotation of the signing key; with `keep_old`, the old keys stay published."""

    keep_old: bool = True


class SessionEvent(BaseModel):
    """An event about a session to send: the arguments of `Clerk.session_event`, and the `timestamp` of the event's
    envelope. Both times are in milliseconds, by default the present."""

    event_type: str = "session.created"
    session_id: str | None = None
    created_at: int | None = None
    with_user: bool = False
    timestamp: int | None = None


class UserPair(BaseModel):
    """The ids of the two users who swap their e-mail addresses."""

    first: str
    second: str


Silent = Annotated[bool, Query(description="Change Clerk without sending the webhook, as if it had been lost.")]


async def _tell(
    sandbox: Sandbox, event_type: str, subject: ClerkObject, *, silent: bool, timestamp: int | None = None
) -> bool | None:
    return None if silent else await sandbox.clerk.send_event(event_type, subject, timestamp=timestamp)


@router.get("/.well-known/jwks.json")
async def published_keys(sandbox: CurrentSandbox) -> Response:
    """Serve the public keys that verify session tokens."""
    return await sandbox.intake.serve("clerk", "jwks", lambda _: JSONResponse(sandbox.clerk.jwks()))


@router.get("/v1/jwks")
async def backend_keys(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the same public keys through the Backend API."""
    handler = with_secret_key(request, sandbox.clerk.jwks)
    return await sandbox.intake.serve("clerk", "backend.jwks", handler)


@router.get("/v1/users")
async def backend_users(request: Request, query: Annotated[UserList, Query()], sandbox: CurrentSandbox) -> Response:
    """Serve one page of users as a JSON array, which nothing encloses."""
    handler = with_secret_key(request, lambda: list_users(sandbox.clerk, query))
    return await sandbox.intake.serve("clerk", "users.list", handler)


@router.get("/v1/users/count")
async def backend_count(request: Request, sandbox: CurrentSandbox) -> Response:
    """Serve the number of users."""
    handler = with_secret_key(request, lambda: count_users(sandbox.clerk))
    return await sandbox.intake.serve("clerk", "users.count", handler)


@router.get("/v1/users/{user_id}")
async def backend_user(request: Request, user_id: str, sandbox: CurrentSandbox) -> Response:
    """Serve one user; 404 for an unknown id."""
    handler = with_secret_key(request, lambda: get_user(sandbox.clerk, user_id))
    return await sandbox.intake.serve("clerk", "users.get", handler, account=user_id)


@router.post("/_control/session-tokens")
async def make_session_token(wanted: SessionTokenRequest, sandbox: CurrentSandbox) -> dict[str, str]:
    """Return a session token for a user, who need not exist; `overrides` can make the token a wrong one. 422 for
    overrides from which no token can be made."""
    try:
        return {"token": sandbox.clerk.session_token(wanted.user_id, **wanted.overrides)}
    except (ValueError, TypeError) as problem:
        raise SandboxError(422, str(problem)) from problem


@router.post("/_control/rotate-key")
async def rotate_key(wanted: KeyRotation, sandbox: CurrentSandbox) -> dict[str, str]:
    """Sign with a new key from now on, and return its `kid`."""
    return {"kid": sandbox.clerk.rotate_key(keep_old=wanted.keep_old).kid}


@router.post("/_control/users", status_code=201)
async def create_user(fields: dict[str, Any], sandbox: CurrentSandbox, *, silent: Silent = False) -> dict[str, Any]:
    """Create a user with the arguments of `Clerk.create_user`, and send the webhook `user.created`. Returns the user
    and `webhook_accepted`, which is null if no webhook was sent. 422 for an unknown field."""
    try:
        user = sandbox.clerk.create_user(**fields)
    except (KeyError, TypeError) as problem:
        raise SandboxError(422, str(problem.args[0])) from problem
    return {"user": user, "webhook_accepted": await _tell(sandbox, "user.created", user, silent=silent)}


def _require_user(sandbox: Sandbox, user_id: str) -> None:
    if sandbox.clerk.user(user_id) is None:
        raise SandboxError(404, f"there is no user {user_id}")


@router.patch("/_control/users/{user_id}")
async def update_user(
    user_id: str, changes: dict[str, Any], sandbox: CurrentSandbox, *, silent: Silent = False
) -> dict[str, Any]:
    """Change a user (`Clerk.update_user`), and send `user.updated`. Returns what `create_user` does. 404 for an unknown
    user, and 422 for an unknown field."""
    _require_user(sandbox, user_id)
    try:
        user = sandbox.clerk.update_user(user_id, **changes)
    except (KeyError, TypeError) as problem:
        raise SandboxError(422, str(problem.args[0])) from problem
    return {"user": user, "webhook_accepted": await _tell(sandbox, "user.updated", user, silent=silent)}


@router.delete("/_control/users/{user_id}")
async def delete_user(user_id: str, sandbox: CurrentSandbox, *, silent: Silent = False) -> dict[str, Any]:
    """Delete a user and send `user.deleted`. Returns the event's `data` as `user`. 404 for an unknown user."""
    _require_user(sandbox, user_id)
    remains = sandbox.clerk.delete_user(user_id)
    return {"user": remains, "webhook_accepted": await _tell(sandbox, "user.deleted", remains, silent=silent)}


@router.post("/_control/users/{user_id}/sessions", status_code=201)
async def tell_of_session(
    user_id: str, wanted: SessionEvent, sandbox: CurrentSandbox, *, silent: Silent = False
) -> dict[str, Any]:
    """Send an event about a session of a user, who need not exist (`Clerk.session_event`). 422 for a type of event that
    is not about sessions."""
    arguments = wanted.model_dump(exclude={"event_type", "timestamp"})
    try:
        session = sandbox.clerk.session_event(wanted.event_type, user_id, **arguments)
    except KeyError as problem:
        raise SandboxError(422, str(problem.args[0])) from problem
    accepted = await _tell(sandbox, wanted.event_type, session, silent=silent, timestamp=wanted.timestamp)
    return {"session": session, "webhook_accepted": accepted}


@router.post("/_control/users/{user_id}/{change}")
async def restrict_user(
    user_id: str,
    change: Literal["ban", "unban", "lock", "unlock"],
    sandbox: CurrentSandbox,
    *,
    silent: Silent = False,
) -> dict[str, Any]:
    """Ban, unban, lock or unlock a user, and send `user.updated`. 404 for an unknown user."""
    _require_user(sandbox, user_id)
    clerk = sandbox.clerk
    changes = {
        "ban": clerk.ban_user,
        "unban": clerk.unban_user,
        "lock": clerk.lock_user,
        "unlock": clerk.unlock_user,
    }
    user = changes[change](user_id)
    return {"user": user, "webhook_accepted": await _tell(sandbox, "user.updated", user, silent=silent)}


@router.post("/_control/swap-emails")
async def swap_emails(pair: UserPair, sandbox: CurrentSandbox, *, silent: Silent = False) -> dict[str, Any]:
    """Swap the e-mail addresses of two users, and send `user.updated` for one after the other; `webhook_accepted` has
    an item for each. 404 for an unknown user."""
    _require_user(sandbox, pair.first)
    _require_user(sandbox, pair.second)
    users = sandbox.clerk.swap_emails(pair.first, pair.second)
    accepted = [await _tell(sandbox, "user.updated", user, silent=silent) for user in users]
    return {"users": users, "webhook_accepted": accepted}
