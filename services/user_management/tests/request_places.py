"""Finds, in the OpenAPI document, every place of a request that takes text, so that a new route is tested without being
listed anywhere, and builds requests that are valid except for the text in one place."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

Schema = Mapping[str, Any]
JSONPath = tuple[str | int, ...]

LONGEST_IN_URL: Final = 2000
"""Characters after which a text is cut in a URL or a header: servers refuse much longer ones before the application
sees them."""
_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"
_SCALARS: Final = frozenset({"string", "integer", "number", "boolean"})


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a request: a parameter or a member of the body. `where` is the parameter's name, or the member's
    path in the body."""

    method: str
    path: str
    kind: str
    """`path`, `query`, `header`, `body`, or `name`: the name of a body member that the schema does not know."""
    where: JSONPath
    operation: Schema = field(compare=False, hash=False, repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.kind} {'.'.join(map(str, self.where))}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request, as httpx takes it."""

    method: str
    url: str
    headers: dict[bytes, bytes]
    content: bytes | None


def places(document: Schema) -> Iterator[Place]:
    """Yield the places of all operations: each parameter, each body member that may hold text, and, for each body, a
    member that its schema does not know. Operations and parameters come in the document's order, body members sorted
    by path."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            for parameter in operation.get("parameters", []):
                yield Place(method.upper(), path, parameter["in"], (parameter["name"],), operation)
            if (body := _body(operation)) is not None:
                for where in _text_in(document, body.schema):
                    yield Place(method.upper(), path, "body", where, operation)
                yield Place(method.upper(), path, "name", (), operation)


@dataclass(frozen=True, slots=True)
class _Body:
    media_type: str
    schema: Schema

    def encode(self, document: Any) -> bytes:
        if self.media_type == _FORM:
            return urlencode(document, errors="surrogatepass").encode()
        return json.dumps(document).encode()


def _body(operation: Schema) -> _Body | None:
    content = operation.get("requestBody", {}).get("content", {})
    known = (media_type for media_type in (_JSON, _FORM) if "schema" in content.get(media_type, {}))
    media_type = next(known, None)
    return None if media_type is None else _Body(media_type, content[media_type]["schema"])


def _resolve(document: Schema, schema: Schema) -> list[Schema]:
    """Return the schemas that `schema` may stand for, with references and alternatives resolved."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _resolve(document, document["components"]["schemas"][name])
    alternatives = [one for key in ("anyOf", "oneOf", "allOf") for one in schema.get(key, [])]
    return [found for one in alternatives for found in _resolve(document, one)] or [schema]


def _text_in(document: Schema, schema: Schema, where: JSONPath = ()) -> Iterator[JSONPath]:
    """Yield the paths to members that may hold a string: strings, other scalars that might be converted from one, and
    members without a type."""
    found: set[JSONPath] = set()
    for one in _resolve(document, schema):
        kind = one.get("type")
        if kind == "object":
            for name, member in one.get("properties", {}).items():
                found |= set(_text_in(document, member, (*where, name)))
        elif kind == "array":
            found |= set(_text_in(document, one["items"], (*where, 0)))
        elif kind in _SCALARS or kind is None:
            found.add(where)
    yield from sorted(found, key=str)


def _sample(document: Schema, schema: Schema, good: Mapping[str, Any], name: str = "") -> Any:
    """Return a value that the schema should accept; `good` has values by the member's name."""
    if name in good:
        return good[name]
    one = _resolve(document, schema)[0]
    if "const" in one:
        return one["const"]
    kind = one.get("type")
    if kind == "object":
        members = one.get("properties", {})
        return {required: _sample(document, members[required], good, required) for required in one.get("required", [])}
    return {"array": [], "string": "x", "boolean": False}.get(str(kind), one.get("minimum", 1))


def _put(document: Any, where: JSONPath, value: Any) -> Any:
    """Return `document` with `value` at `where`."""
    if not where:
        return value
    step, *rest = where
    if isinstance(step, int):
        return [_put(None, tuple(rest), value)]
    members = document if isinstance(document, dict) else {}
    return members | {step: _put(members.get(step), tuple(rest), value)}


def _escaped(text: str) -> str:
    return quote(text[:LONGEST_IN_URL], safe="", errors="surrogatepass")


def prepare(document: Schema, place: Place, text: str, good: Mapping[str, Any]) -> Prepared:
    """Build a request with `text` at `place`. All other required values come from `good`, by their names; body members
    that `good` lacks get a value that fits their schema."""
    parameters = {kind: dict[str, str]() for kind in ("path", "query", "header")}
    for parameter in place.operation.get("parameters", []):
        if parameter["in"] == "path" or parameter.get("required"):
            parameters[parameter["in"]][parameter["name"]] = str(good[parameter["name"]])
    if place.kind in parameters:
        parameters[place.kind][str(place.where[0])] = text
    url = place.path
    for name, value in parameters["path"].items():
        url = url.replace(f"{{{name}}}", _escaped(value))
    if parameters["query"]:
        url += "?" + "&".join(f"{name}={_escaped(value)}" for name, value in parameters["query"].items())
    headers = {
        name.encode(): value[:LONGEST_IN_URL].encode(errors="surrogatepass")
        for name, value in parameters["header"].items()
    }
    content = None
    if (body := _body(place.operation)) is not None:
        members = _sample(document, body.schema, good)
        if place.kind in {"body", "name"}:
            members = _put(members, place.where or (text,), text)
        content = body.encode(members)
        headers[b"content-type"] = body.media_type.encode()
    return Prepared(place.method, url, headers, content)
