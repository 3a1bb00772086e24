"""One provider: its grants, and the operations on them."""

import time

from services.sandbox.oidc.accounts import Account, Accounts
from services.sandbox.oidc.errors import OAuthError, invalid_access_token
from services.sandbox.oidc.grants import AccessToken, AuthorizationCode, Grant, RefreshToken
from services.sandbox.oidc.issued_tokens import IssuedTokens, sign_id_token
from services.sandbox.oidc.pkce import check_verifier
from services.sandbox.oidc.rotation import rotate
from services.sandbox.oidc.settings import ProviderSettings
from services.sandbox.providers import CLIENT_ID, Kind
from services.sandbox.signing import SigningKey, signing_key


class Provider:
    """An OpenID provider of one kind. Methods are synchronous, so each is atomic within the process."""

    def __init__(self, kind: Kind, *, base_url: str) -> None:
        self.kind = kind
        self.party = f"oidc:{kind}"
        self.issuer = f"{base_url}/oidc/{kind}"
        self.settings = ProviderSettings()
        self.accounts = Accounts(namespace=kind)
        self._codes: dict[str, AuthorizationCode] = {}
        self._refresh_tokens: dict[str, RefreshToken] = {}
        self._access_tokens: dict[str, AccessToken] = {}
        self._grants: list[Grant] = []

    @property
    def signing_key(self) -> SigningKey:
        """Signs id_tokens; the four kinds share one."""
        return signing_key("oidc", 1)

    def now(self) -> int:
        """Unix seconds on the provider's own clock."""
        return int(time.time()) + self.settings.clock_offset_seconds

    def new_code(
        self,
        *,
        account: Account,
        redirect_uri: str,
        scopes: tuple[str, ...],
        nonce: str | None = None,
        code_challenge: str | None = None,
    ) -> AuthorizationCode:
        """Remember a consent until its code is exchanged."""
        code = AuthorizationCode(
            account=account,
            client_id=CLIENT_ID,
            redirect_uri=redirect_uri,
            scopes=scopes,
            nonce=nonce,
            code_challenge=code_challenge,
            expires_at=time.monotonic() + self.settings.code_lifetime_seconds,
            authenticated_at=self.now(),
        )
        self._codes[code.value] = code
        return code

    def exchange_code(
        self, value: str, *, client_id: str, redirect_uri: str | None, code_verifier: str | None
    ) -> tuple[Grant, IssuedTokens]:
        """Redeem a code once. A second time revokes what the first gave (RFC 6749 section 4.1.2).

        Raises `OAuthError` invalid_grant for a code that is unknown, used, expired or bound to something else.
        """
        code = self._codes.get(value)
        if code is None or code.client_id != client_id:
            raise OAuthError("invalid_grant", "unknown code")
        if code.grant is not None:
            code.grant.revoke("code_replayed")
            raise OAuthError("invalid_grant", "the code was used before; its tokens are revoked")
        if time.monotonic() > code.expires_at:
            raise OAuthError("invalid_grant", "the code has expired")
        if redirect_uri != code.redirect_uri:
            raise OAuthError("invalid_grant", "redirect_uri is not the one of the authorization request")
        check_verifier(code.code_challenge, code_verifier)
        grant = code.grant = Grant(
            code.account, code.client_id, code.scopes, nonce=code.nonce, authenticated_at=code.authenticated_at
        )
        return grant, self._first_tokens(grant)

    def issue(self, account: str, scopes: tuple[str, ...]) -> IssuedTokens:
        """Tokens of a new grant without the dance, for seeding many connections."""
        grant = Grant(self.accounts.get(account), CLIENT_ID, scopes, nonce=None, authenticated_at=self.now())
        return self._first_tokens(grant)

    def _first_tokens(self, grant: Grant) -> IssuedTokens:
        self._grants.append(grant)
        refresh_token = grant.new_refresh_token() if "offline_access" in grant.scopes else None
        return self._tokens(grant, grant.scopes, refresh_token, nonce=grant.nonce)

    def refresh(
        self, value: str, *, client_id: str, scopes: tuple[str, ...] | None = None
    ) -> tuple[Grant, IssuedTokens]:
        """Redeem a refresh token as the kind does it; `scopes` may narrow the grant for the new access token.

        Raises `OAuthError`: invalid_grant for a token that is unknown, dead or reused, invalid_scope for a wider scope
        (which does not use the token up).
        """
        token = self._refresh_tokens.get(value)
        if token is None or token.grant.client_id != client_id or not token.grant.alive:
            raise OAuthError("invalid_grant", "unknown or revoked refresh token")
        if scopes is not None and not set(scopes) <= set(token.grant.scopes):
            raise OAuthError("invalid_scope", "the scope goes beyond the grant")
        successor = rotate(token, self.kind, now=time.monotonic(), grace_seconds=self.settings.grace_seconds)
        return token.grant, self._tokens(token.grant, scopes or token.grant.scopes, successor)

    def _tokens(
        self, grant: Grant, scopes: tuple[str, ...], refresh_token: RefreshToken | None, *, nonce: str | None = None
    ) -> IssuedTokens:
        lifetime = self.settings.access_token_lifetime_seconds
        access_token = AccessToken(grant=grant, scopes=scopes, expires_at=time.monotonic() + lifetime)
        self._access_tokens[access_token.value] = access_token
        if refresh_token is not None:
            self._refresh_tokens[refresh_token.value] = refresh_token
        return IssuedTokens(
            access_token=access_token.value,
            expires_in=lifetime,
            scope=" ".join(scopes),
            refresh_token=refresh_token.value if refresh_token else None,
            id_token=self._id_token(access_token, nonce) if "openid" in scopes else None,
        )

    def _id_token(self, access_token: AccessToken, nonce: str | None) -> str:
        return sign_id_token(access_token, issuer=self.issuer, now=self.now(), nonce=nonce, key=self.signing_key)

    def bearer(self, value: str) -> AccessToken:
        """A live access token. Raises `OAuthError` (401) for one that is unknown, expired or revoked."""
        token = self._access_tokens.get(value)
        if token is None:
            raise invalid_access_token("unknown access token")
        if not token.grant.alive:
            raise invalid_access_token("the grant was revoked")
        if time.monotonic() >= token.expires_at:
            raise invalid_access_token("the access token has expired")
        return token

    def revoke(self, value: str, *, client_id: str) -> Grant | None:
        """Kill the grant of an access or refresh token (RFC 7009 section 2.1); `None` for an unknown one."""
        token = self._refresh_tokens.get(value) or self._access_tokens.get(value)
        if token is None or token.grant.client_id != client_id:
            return None
        token.grant.revoke("revoked_by_client")
        return token.grant

    def grants(self, account: str | None = None) -> list[Grant]:
        """All grants, or those of one account (id or e-mail), oldest first."""
        wanted = self.accounts.get(account) if account else None
        return [grant for grant in self._grants if wanted is None or grant.account == wanted]

    def revoke_account(self, account: str) -> int:
        """The person takes the consent back. Returns how many live grants that ended."""
        live = [grant for grant in self.grants(account) if grant.alive]
        for grant in live:
            grant.revoke("revoked_by_user")
        return len(live)

    def expire_access_tokens(self, account: str | None = None) -> int:
        """Access tokens issued so far stop working now; refresh tokens do not. Returns how many that ended."""
        now = time.monotonic()
        grants = {grant.id for grant in self.grants(account)}
        live = [one for one in self._access_tokens.values() if one.expires_at > now and one.grant.id in grants]
        for token in live:
            token.expires_at = now
        return len(live)
