"""One provider of the sandbox: its accounts, its grants (accounts' consents to a client) with their codes and tokens,
and the operations on them."""

import secrets
import time
from collections import defaultdict
from collections.abc import Mapping

from services.sandbox.oidc.accounts import Account, Accounts
from services.sandbox.oidc.errors import OAuthError, invalid_access_token
from services.sandbox.oidc.grants import AccessToken, AuthorizationCode, Grant, RefreshToken
from services.sandbox.oidc.issued_tokens import IssuedTokens, sign_id_token
from services.sandbox.oidc.persona import Persona
from services.sandbox.oidc.pkce import check_verifier
from services.sandbox.oidc.settings import ProviderSettings
from services.sandbox.providers import CLIENT_ID
from services.sandbox.signing import SigningKey, provider_signing_key


class Provider:
    """An OAuth provider, whose persona decides what differs between providers. Methods are synchronous, so each is
    atomic within the process."""

    def __init__(self, persona: Persona) -> None:
        self.persona = persona
        self.party = persona.party
        self.issuer = persona.issuer
        self.forget()

    def forget(self) -> None:
        """Return to the initial state: default settings, the default account, and no consents, codes or tokens."""
        self.settings = type(self.persona.settings)()
        self.accounts = Accounts(namespace=self.persona.name)
        self._codes: dict[str, AuthorizationCode] = {}
        self._refresh_tokens: dict[str, RefreshToken] = {}
        self._access_tokens: dict[str, AccessToken] = {}
        self._grants: list[Grant] = []
        self._grants_of: defaultdict[str, list[Grant]] = defaultdict(list)

    @property
    def settings(self) -> ProviderSettings:
        """Return the persona's settings, which tests may change."""
        return self.persona.settings

    @settings.setter
    def settings(self, settings: ProviderSettings) -> None:
        self.persona.settings = settings

    @property
    def signing_key(self) -> SigningKey:
        """Return the key that signs ID tokens."""
        return provider_signing_key()

    def now(self) -> int:
        """Return Unix seconds on the provider's clock, which `clock_offset_seconds` sets ahead of the real one."""
        return int(time.time()) + self.settings.clock_offset_seconds

    def new_code(
        self,
        *,
        account: Account,
        redirect_uri: str,
        scopes: tuple[str, ...],
        nonce: str | None = None,
        code_challenge: str | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> AuthorizationCode:
        """Make an authorization code for a consent to `scopes`. The persona may change the scopes, and may decide by
        the authorization request's `parameters`."""
        consented, offline = self._consent(account, scopes, parameters or {})
        code = AuthorizationCode(
            account=account,
            client_id=CLIENT_ID,
            redirect_uri=redirect_uri,
            scopes=consented,
            nonce=nonce,
            code_challenge=code_challenge,
            offline=offline,
            expires_at=time.monotonic() + self.settings.code_lifetime_seconds,
            authenticated_at=self.now(),
        )
        self._codes[code.value] = code
        return code

    def _consent(
        self, account: Account, scopes: tuple[str, ...], parameters: Mapping[str, str]
    ) -> tuple[tuple[str, ...], bool]:
        """Return the scopes that a new consent covers, and whether a refresh token comes with it."""
        live = [grant for grant in self._grants_of[account.id] if grant.alive]
        earlier = tuple(dict.fromkeys(scope for grant in live for scope in grant.scopes))
        consented = self.persona.consented_scopes(scopes, parameters, earlier=earlier)
        return consented, self.persona.gives_refresh_token(consented, parameters, consented_before=bool(live))

    def exchange_code(
        self, value: str, *, client_id: str, redirect_uri: str | None, code_verifier: str | None
    ) -> tuple[Grant, IssuedTokens]:
        """Exchange an authorization code for a new grant and its first tokens. A second exchange of the same code is
        refused, and revokes the grant (RFC 6749 section 4.1.2).

        Raises `OAuthError` invalid_grant for a code that is unknown, used, expired, or bound to another client,
        redirect URI or verifier.
        """
        code = self._codes.get(value)
        if code is None or code.client_id != client_id:
            raise OAuthError("invalid_grant", "unknown code", cause="code")
        if code.grant is not None:
            code.grant.revoke("code_replayed")
            raise OAuthError("invalid_grant", "the code was used before; its tokens are revoked", cause="code_used")
        if time.monotonic() > code.expires_at:
            raise OAuthError("invalid_grant", "the code has expired", cause="code")
        if redirect_uri != code.redirect_uri:
            description = "redirect_uri is not the one of the authorization request"
            raise OAuthError("invalid_grant", description, cause="redirect_uri")
        check_verifier(code.code_challenge, code_verifier)
        grant = code.grant = Grant(
            code.account,
            code.client_id,
            code.scopes,
            nonce=code.nonce,
            authenticated_at=code.authenticated_at,
            offline=code.offline,
        )
        return grant, self._first_tokens(grant)

    def issue(self, account: str, scopes: tuple[str, ...], parameters: Mapping[str, str] | None = None) -> IssuedTokens:
        """Issue tokens under a new consent of `account` (id or e-mail) without an authorization request, to prepare
        many integrations. `parameters` are those that the request would have had, by default the persona's
        `seeding_parameters`."""
        owner = self.accounts.get(account)
        asked = self.persona.seeding_parameters if parameters is None else parameters
        consented, offline = self._consent(owner, scopes, asked)
        grant = Grant(owner, CLIENT_ID, consented, nonce=None, authenticated_at=self.now(), offline=offline)
        return self._first_tokens(grant)

    def _first_tokens(self, grant: Grant) -> IssuedTokens:
        self._grants.append(grant)
        self._grants_of[grant.account.id].append(grant)
        issued = [self._token_set(grant, scopes) for scopes in self.persona.token_scopes(grant.scopes)]
        issued[0].also = issued[1] if len(issued) > 1 else None
        return issued[0]

    def _token_set(self, grant: Grant, scopes: tuple[str, ...]) -> IssuedTokens:
        refresh_token = None
        if grant.offline:
            refresh_token = grant.new_refresh_token(scopes, self.persona.token_prefixes(scopes)[1])
            self._cap_refresh_tokens(grant.account)
        return self._tokens(grant, scopes, refresh_token, nonce=grant.nonce)

    def _cap_refresh_tokens(self, account: Account) -> None:
        limit = self.persona.refresh_tokens_per_account()
        if limit is None:
            return
        tokens = [token for grant in self._grants_of[account.id] for token in grant.refresh_tokens if token.alive]
        for token in tokens[:-limit]:
            token.dead_because = "too_many"

    def refresh(
        self, value: str, *, client_id: str, scopes: tuple[str, ...] | None = None
    ) -> tuple[Grant, IssuedTokens]:
        """Exchange a refresh token for new tokens, which are returned with their grant. `scopes` may narrow the scopes
        of the new access token. The persona decides whether the refresh token is replaced, and what its reuse means.

        Raises `OAuthError`: invalid_grant for a token that is unknown, another client's, ended, too old or reused, and
        invalid_scope for a scope that the token does not have, in which case the token is not used up.
        """
        now = time.monotonic()
        token = self._refresh_tokens.get(value)
        if token is None or token.grant.client_id != client_id:
            raise OAuthError("invalid_grant", "unknown refresh token", cause="unknown")
        if problem := self._problem(token, now):
            raise OAuthError("invalid_grant", f"the refresh token is dead: {problem}", cause=problem)
        if scopes is not None and not set(scopes) <= set(token.scopes):
            raise OAuthError("invalid_scope", "the scope goes beyond the grant")
        successor = self.persona.successor(token, now=now)
        token.used_at = now
        if self.persona.one_access_token:
            token.grant.end_access_tokens()
        return token.grant, self._tokens(token.grant, scopes or token.scopes, successor, presented=token)

    def _problem(self, token: RefreshToken, now: float) -> str | None:
        return token.grant.revoked_because or token.dead_because or self.persona.refresh_token_problem(token, now=now)

    def _tokens(
        self,
        grant: Grant,
        scopes: tuple[str, ...],
        refresh_token: RefreshToken | None,
        *,
        nonce: str | None = None,
        presented: RefreshToken | None = None,
    ) -> IssuedTokens:
        lifetime = self.persona.access_token_lifetime(offline=grant.offline)
        access_token = self._new_access_token(grant, scopes, lifetime)
        if refresh_token is not None:
            self._refresh_tokens[refresh_token.value] = refresh_token
        return IssuedTokens(
            access_token=access_token.value,
            expires_in=lifetime,
            scope=" ".join(scopes),
            refresh_token=refresh_token.value if refresh_token else None,
            refresh_token_expires_in=self._seconds_left(refresh_token or presented),
            id_token=self._id_token(access_token, nonce) if "openid" in scopes else None,
        )

    def _new_access_token(self, grant: Grant, scopes: tuple[str, ...], lifetime: int | None) -> AccessToken:
        expires_at = float("inf") if lifetime is None else time.monotonic() + lifetime
        value = f"{self.persona.token_prefixes(scopes)[0]}{secrets.token_urlsafe(32)}"
        token = AccessToken(grant=grant, scopes=scopes, expires_at=expires_at, value=value)
        grant.access_tokens.append(token)
        self._access_tokens[value] = token
        return token

    def _seconds_left(self, token: RefreshToken | None) -> int | None:
        ends_at = self.persona.refresh_token_ends_at(token) if token else None
        return None if ends_at is None else int(ends_at - time.monotonic())

    def _id_token(self, access_token: AccessToken, nonce: str | None) -> str:
        account = access_token.grant.account
        about = {"iss": self.persona.id_token_issuer(account), **self.persona.claims(account, access_token.scopes)}
        nonce_claim = {"nonce": nonce} if nonce else {}
        return sign_id_token(access_token, about | nonce_claim, now=self.now(), key=self.signing_key)

    def bearer(self, value: str) -> AccessToken:
        """Return the access token with this value. Raises `OAuthError` (401) for one that is unknown, expired or
        revoked."""
        token = self._access_tokens.get(value)
        if token is None:
            raise invalid_access_token("unknown access token", cause="unknown")
        if not token.grant.alive:
            raise invalid_access_token("the grant was revoked", cause=token.grant.revoked_because or "")
        if token.revoked:
            raise invalid_access_token("the access token was revoked", cause="revoked_by_client")
        if time.monotonic() >= token.expires_at:
            raise invalid_access_token("the access token has expired", cause="expired")
        return token

    def grant_of(self, value: str, *, client_id: str) -> Grant | None:
        """Return the grant under which an access or refresh token was issued, even if the grant was revoked; `None` for
        a token that is unknown or another client's."""
        token = self._refresh_tokens.get(value) or self._access_tokens.get(value)
        return token.grant if token is not None and token.grant.client_id == client_id else None

    def revoke(self, value: str, *, client_id: str) -> Grant | None:
        """Revoke the grant under which an access or refresh token was issued (RFC 7009 section 2.1), and all other
        grants of its account if the persona has `revokes_account`. Return the token's grant, `None` for a token that is
        unknown or another client's."""
        grant = self.grant_of(value, client_id=client_id)
        if grant is None:
            return None
        for one in self._grants_of[grant.account.id] if self.persona.revokes_account else [grant]:
            one.revoke("revoked_by_client")
        return grant

    def revoke_access_token(self, token: AccessToken) -> None:
        """Revoke one access token, and those refresh tokens of its grant that have the same scopes; the grant's other
        tokens go on working."""
        token.revoked = True
        for refresh_token in token.grant.refresh_tokens:
            if refresh_token.scopes == token.scopes:
                refresh_token.dead_because = refresh_token.dead_because or "revoked_by_client"

    def grants(self, account: str | None = None) -> list[Grant]:
        """Return all grants, or those of one account (id or e-mail), oldest first and revoked ones included."""
        return list(self._grants if account is None else self._grants_of[self.accounts.get(account).id])

    def revoke_account(self, account: str, reason: str = "revoked_by_user") -> int:
        """End the live consents of an account (id or e-mail), as the person or a policy would, and return how many
        ended. `reason` becomes the `cause` of later refusals."""
        live = [grant for grant in self.grants(account) if grant.alive]
        for grant in live:
            grant.revoke(reason)
        return len(live)

    def expire_access_tokens(self, account: str | None = None) -> int:
        """Make the access tokens of one account (id or e-mail), or of all accounts, expire now; refresh tokens do not.
        Return how many expired."""
        now = time.monotonic()
        live = [token for grant in self.grants(account) for token in grant.access_tokens if token.expires_at > now]
        for token in live:
            token.expires_at = now
        return len(live)

    def age(self, seconds: float, account: str | None = None) -> int:
        """Make the tokens that were issued so far, for one account (id or e-mail) or for all, older by `seconds`.
        Return how many grants that concerns."""
        grants = self.grants(account)
        for grant in grants:
            grant.age(seconds)
        return len(grants)
