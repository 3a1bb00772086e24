"""Conditional requests (RFC 9110 section 13) over entity tags that begin with the row's version."""

import re
from typing import Annotated, Any, Final, Protocol

from fastapi import Depends, Header, Request
from fastapi.responses import Response

Responses = dict[int | str, dict[str, Any]]

_ENTITY_TAG: Final = {"ETag": {"description": "Entity tag of this representation", "schema": {"type": "string"}}}
TAGGED: Final[Responses] = {200: {"headers": _ENTITY_TAG}}
TAGGED_CREATED: Final[Responses] = {201: {"headers": _ENTITY_TAG}}
CONDITIONAL: Final[Responses] = {
    **TAGGED,
    304: {"description": "The client holds the current representation", "headers": _ENTITY_TAG},
}
IF_NONE_MATCH: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "if-none-match",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "Answer only if the resource no longer has any of these entity tags",
        }
    ]
}
"""`openapi_extra` for routes that use `answer_conditionally`, which reads this header from the request itself."""
_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_VERSION: Final = re.compile(r'"([1-9][0-9]{0,9})(?:-[0-9a-f-]*)?"')


class TaggedModel(Protocol):
    """A model with an entity tag (RFC 9110 section 8.8.3)."""

    @property
    def etag(self) -> str:
        """The entity tag, in quotes."""

    def model_dump_json(self) -> str:
        """Return the model as JSON."""


def answer_conditionally(request: Request, answer: TaggedModel) -> Response:
    """Return the model as JSON with its `etag`, or 304 when `If-None-Match` of a GET or HEAD request names that tag."""
    etag = answer.etag
    headers = {"ETag": etag}
    wanted = request.headers.get("if-none-match")
    if wanted is not None and request.method in {"GET", "HEAD"} and _is_among(etag, wanted):
        return Response(status_code=304, headers=headers)
    return Response(answer.model_dump_json(), media_type="application/json", headers=headers)


def _is_among(etag: str, wanted: str) -> bool:
    """Tell whether `etag` matches `wanted`, a list of tags or `*`, by weak comparison (RFC 9110 section 8.8.3.2)."""
    return wanted.strip() == "*" or etag in [tag.removeprefix("W/") for tag in _TAG.findall(wanted)]


async def expected_versions(
    if_match: Annotated[
        str | None,
        Header(max_length=1024, description="Proceed only if the resource still has one of these entity tags"),
    ] = None,
) -> frozenset[int] | None:
    """Return the row versions that `If-Match` accepts; None: any. Weak tags, and tags of another form than ours, match
    nothing (RFC 9110 section 13.1.1)."""
    if if_match is None or if_match.strip() == "*":
        return None
    versions = (_VERSION.fullmatch(tag.strip()) for tag in if_match.split(","))
    return frozenset(int(version[1]) for version in versions if version)


IfMatch = Annotated[frozenset[int] | None, Depends(expected_versions)]
