"""Edits of a correct token answer that make one member wrong or leave it out, which the client has to notice."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from fastapi.responses import JSONResponse, Response

from services.sandbox.faults import Fault
from services.sandbox.forms import FORM_TYPE
from services.sandbox.signing import provider_signing_key, sign_jws, signing_key

Body = dict[str, Any]
SOMEBODY_ELSE = "acct-somebody-else"
_NESTED = "authed_user"
"""The member in which Slack puts the tokens of a person, as opposed to those of the bot."""


def _without(key: str) -> Callable[[Body, Fault], Body]:
    return lambda body, _: {name: value for name, value in body.items() if name != key}


def _with(**members: Any) -> Callable[[Body, Fault], Body]:
    return lambda body, _: body | members


def _narrowed(body: Body, fault: Fault) -> Body:
    first, *_ = str(body.get("scope", "")).replace(",", " ").split() or [""]
    return body | {"scope": first if fault.scope is None else fault.scope}


def _claims_of(id_token: str) -> Body:
    segment = id_token.split(".")[1]
    claims: Body = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    return claims


def _signed_again(**claims: Any) -> Callable[[Body, Fault], Body]:
    """Return an edit that replaces claims of the ID token and signs it again with the provider's own key. An answer
    without an ID token stays as it is."""

    def edit(body: Body, _: Fault) -> Body:
        if "id_token" not in body:
            return body
        key = provider_signing_key()
        header = {"alg": "RS256", "kid": key.kid, "typ": "JWT"}
        return body | {"id_token": sign_jws(header, _claims_of(body["id_token"]) | claims, key=key.private_key)}

    return edit


def _expired(body: Body, fault: Fault) -> Body:
    day_ago = int(time.time()) - 86_400
    return _signed_again(iat=day_ago, exp=day_ago + 3600)(body, fault)


def _badly_signed(body: Body, _: Fault) -> Body:
    if "id_token" not in body:
        return body
    header = {"alg": "RS256", "kid": provider_signing_key().kid, "typ": "JWT"}
    stranger = signing_key("stranger", 1)
    return body | {"id_token": sign_jws(header, _claims_of(body["id_token"]), key=stranger.private_key)}


_EDITS: dict[str, Callable[[Body, Fault], Body]] = {
    "no_refresh_token": _without("refresh_token"),
    "expires_in_missing": _without("expires_in"),
    "expires_in_negative": _with(expires_in=-3600),
    "expires_in_string": _with(expires_in="soon"),
    "expires_in_zero": _with(expires_in=0),
    "scope_narrowed": _narrowed,
    "no_id_token": _without("id_token"),
    "wrong_nonce": _signed_again(nonce="nonce-of-another-flow"),
    "wrong_audience": _signed_again(aud="another-client"),
    "wrong_issuer": _signed_again(iss="https://issuer.example"),
    "expired_id_token": _expired,
    "foreign_id_token": _signed_again(sub=SOMEBODY_ELSE, oid=SOMEBODY_ELSE, email="somebody.else@example.com"),
    "bad_id_token_signature": _badly_signed,
}


def edits_answer(fault: Fault) -> bool:
    """Tell whether a fault changes members of a good answer."""
    return fault.action in _EDITS


def edited(fault: Fault, answer: Response) -> Response:
    """Return the answer with the fault's change, in the format that the answer had: JSON or a form. If an answer of
    Slack's holds a person's tokens, only these are changed, and those of the bot stay."""
    edit = _EDITS[fault.action]
    if answer.media_type == FORM_TYPE:
        fields = dict(parse_qsl(bytes(answer.body).decode()))
        return Response(urlencode(edit(fields, fault)), answer.status_code, media_type=FORM_TYPE)
    body: Body = json.loads(bytes(answer.body))
    if "access_token" in body.get(_NESTED, {}):
        return JSONResponse(body | {_NESTED: edit(body[_NESTED], fault)})
    return JSONResponse(edit(body, fault))
