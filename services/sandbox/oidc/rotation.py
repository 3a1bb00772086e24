"""The ways in which providers treat a refresh token that was used: the four refresh kinds, and a variant of strict."""

from services.sandbox.oidc.errors import OAuthError
from services.sandbox.oidc.grants import RefreshToken
from services.sandbox.providers import Kind


def rotate(token: RefreshToken, kind: Kind, *, now: float, grace_seconds: float) -> RefreshToken | None:
    """Return the refresh token to answer with, or `None` if the presented one stays valid and the answer holds none.
    `now` is monotonic time.

    - static (Google): the presented token stays valid.
    - overlap (Microsoft): a new token each time, and every old one stays valid.
    - grace: one successor, given again to whoever presents the old token within `grace_seconds` of its first use.
    - strict: one successor, and the old token is invalid at once.

    A token that is presented again under strict, or too late under grace, shows that two parties hold it. Nobody can
    tell which of them is the thief, so the grant is revoked (RFC 9700 section 4.14.2) and `OAuthError` invalid_grant is
    raised.
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
    """Return a successor, and end the old token. If the old token is presented again, it is refused, but its grant is
    not revoked (GitHub, Slack)."""
    token.dead_because = "used"
    return token.renewed()
