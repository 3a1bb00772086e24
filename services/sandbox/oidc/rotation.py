"""The four ways in which providers treat the refresh token that was just used."""

from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.grants import RefreshToken
from services.sandbox.providers import Kind


def rotate(token: RefreshToken, kind: Kind, *, now: float, grace_seconds: float) -> RefreshToken | None:
    """The refresh token to answer with, or `None` where the presented one stays and is not repeated.

    - static (Google): nothing changes.
    - overlap (Microsoft): a new one each time, and every old one goes on working.
    - grace: one successor, replayed to whoever presents the old token within `grace_seconds` of its first use.
    - strict: one successor, and the old token is dead at once.

    Under grace (too late) and strict, presenting a used token means that two parties hold it. Nobody can tell which
    is the thief, so the family is revoked (RFC 9700 section 4.14.2) and `OAuthError` invalid_grant raised.
    """
    if kind == "static":
        return None
    if kind == "overlap":
        return token.renewed()
    if token.successor is None or token.rotated_at is None:
        token.successor, token.rotated_at = token.renewed(), now
        return token.successor
    if kind == "grace" and now - token.rotated_at <= grace_seconds:
        return token.successor
    token.grant.revoke("refresh_token_reused")
    raise OAuthError("invalid_grant", "the refresh token was used before; the grant is revoked", cause="reused")


def use_up(token: RefreshToken) -> RefreshToken:
    """One successor, and the old token is merely dead: what it gave before goes on working (GitHub, Slack)."""
    token.dead_because = "used"
    return token.renewed()
