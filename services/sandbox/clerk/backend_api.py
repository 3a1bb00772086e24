"""The part of Clerk's Backend API that the service reads when it reconciles (compares all of its users with Clerk)."""

from collections.abc import Callable
from typing import Any, Literal

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from services.sandbox.clerk.party import Clerk
from services.sandbox.clerk.users import ClerkUser
from services.sandbox.intake import Handler
from services.sandbox.ledger import Entry


class UserList(BaseModel):
    """Query of `GET /v1/users`. `order_by` is descending with a leading -, and ascending with + or without a sign.
    `user_id` may occur up to a hundred times (`user_id=…&user_id=…`, as Clerk's SDKs send it); the answer then holds
    only the users that it names.
    """

    limit: int = Field(default=10, ge=1, le=500)
    offset: int = Field(default=0, ge=0)
    order_by: Literal["created_at", "+created_at", "-created_at", "updated_at", "+updated_at", "-updated_at"] = (
        "-created_at"
    )
    user_id: list[str] = Field(default=[], max_length=100)


class BackendError(Exception):
    """A refusal by the Backend API."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def response(self) -> JSONResponse:
        """Return the refusal in Clerk's own format, `{"errors": [{code, message, long_message}]}`."""
        error = {"code": self.code, "message": self.message, "long_message": self.message}
        return JSONResponse({"errors": [error]}, self.status)


def _require_secret_key(request: Request) -> None:
    if not request.headers.get("authorization", "").startswith("Bearer sk_"):
        raise BackendError(401, "authentication_invalid", "A secret key is required.")


def with_secret_key(request: Request, answer: Callable[[], Any]) -> Handler:
    """Return a handler that sends what `answer` returns, as JSON, if the request has `Authorization: Bearer sk_…`.

    A request without it (401), and a `BackendError` that `answer` raises, get an error body, and its code is written to
    the request's entry in the ledger (the sandbox's record of all calls).
    """

    def handler(entry: Entry) -> Response:
        try:
            _require_secret_key(request)
            return JSONResponse(answer())
        except BackendError as refusal:
            entry.error = refusal.code
            return refusal.response()

    return handler


def list_users(clerk: Clerk, query: UserList) -> list[ClerkUser]:
    """Return the page of users that `query` asks for. Users with the same time are ordered by their ids, so that pages
    never overlap."""
    field = query.order_by.lstrip("+-")
    named = set(query.user_id)
    meant = [user for user in clerk.stored_users() if not named or user["id"] in named]
    ordered = sorted(meant, key=lambda user: (user[field], user["id"]), reverse=query.order_by.startswith("-"))
    return ordered[query.offset : query.offset + query.limit]


def count_users(clerk: Clerk) -> dict[str, Any]:
    """Return the number of users, as the object in which Clerk sends it."""
    return {"object": "total_count", "total_count": len(clerk.stored_users())}


def get_user(clerk: Clerk, user_id: str) -> ClerkUser:
    """Return one user. Raises `BackendError` (404) for an unknown id."""
    user = clerk.user(user_id)
    if user is None:
        raise BackendError(404, "resource_not_found", f"No user was found with id {user_id}.")
    return user
