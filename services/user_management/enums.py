"""The closed sets of the domain. Those that are columns are text in the database, with a CHECK constraint over the same
values; others, such as RateClass, occur only in code, provider files, answers and metrics."""

from enum import StrEnum


class UserStatus(StrEnum):
    PENDING_VERIFICATION = "pending_verification"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"


class UpstreamStatus(StrEnum):
    """The state of a user at the identity provider."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    """Banned or locked."""
    DEACTIVATED = "deactivated"
    """Deprovisioned by the customer's directory."""


class ServicePermission(StrEnum):
    """What a sibling service may do besides reading tokens under its grants."""

    ADMIN = "admin"
    """Call everything under /admin, and do what the other permissions allow."""
    USERS_READ = "users:read"
    """Read profiles by their ids."""
    USERS_SEARCH = "users:search"
    """Find users by e-mail, name, status and time."""
    WEBHOOKS_MANAGE = "webhooks:manage"
    """Manage its own webhook subscriptions."""


class IntegrationStatus(StrEnum):
    """The status of an integration, a user's linked account. `active` and `degraded` can serve tokens; a degraded one
    will stop (it has no refresh token), or its provider fails at the moment. The others serve none until the user
    connects again."""

    ACTIVE = "active"
    DEGRADED = "degraded"
    NEEDS_REAUTH = "needs_reauth"
    REVOKED = "revoked"
    DISCONNECTED = "disconnected"


class TokenKind(StrEnum):
    ACCESS = "access"
    REFRESH = "refresh"


class RefreshKind(StrEnum):
    """The kind of a provider's refresh tokens: what becomes of a refresh token that was used."""

    STATIC = "static"
    """The old token stays valid, and no new one is issued (Google)."""
    OVERLAP = "overlap"
    """A new token is issued; the old one stays valid (Microsoft)."""
    GRACE = "grace"
    """A new token is issued; for a while, using the old one again returns that same new token."""
    STRICT = "strict"
    """A new token is issued; using the old one again revokes the whole consent."""


class FlowStatus(StrEnum):
    """The status of one connect attempt."""

    PENDING = "pending"
    RETURNED = "returned"
    """The user came back from the provider with a code; the front end has not confirmed yet."""
    CONSUMED = "consumed"
    """The attempt was confirmed, which uses up its code and can be done once."""
    FAILED = "failed"


class EncryptionKeyState(StrEnum):
    ACTIVE = "active"
    DECRYPT_ONLY = "decrypt_only"
    RETIRED = "retired"


class TokenOutcome(StrEnum):
    """The outcome of a token read; all but `granted` and `stale` are refusals. `stale`: the access token runs out too
    soon, or the service reports that the provider refused it, so it is refreshed before the answer."""

    GRANTED = "granted"
    STALE = "stale"
    UNAUTHENTICATED = "unauthenticated"
    GRANT_DENIED = "grant_denied"
    REASON_REQUIRED = "reason_required"
    UNKNOWN_PROVIDER = "unknown_provider"
    USER_NOT_FOUND = "user_not_found"
    USER_INACTIVE = "user_inactive"
    NOT_CONNECTED = "not_connected"
    NEEDS_REAUTH = "needs_reauth"
    REVOKED = "revoked"
    INSUFFICIENT_SCOPE = "insufficient_scope"


class ReauthReason(StrEnum):
    """Why the user has to connect the account of an integration again."""

    GRANT_REFUSED = "grant_refused"
    """The provider refused the refresh token, by `invalid_grant` or another code that means the same."""
    REFRESH_INTERRUPTED = "refresh_interrupted"
    """A refresh was cut off after the provider may have rotated the token, and the old one no longer works."""
    NO_REFRESH_TOKEN = "no_refresh_token"  # noqa: S105 - a reason
    """The access token ran out and the provider never issued a refresh token."""
    TOKEN_UNREADABLE = "token_unreadable"  # noqa: S105 - a reason
    """The stored token is damaged: it cannot be decrypted, although the key is proven to be the right one."""
    SCOPE_MISSING = "scope_missing"
    """The user consented to less than the provider file requires."""
    SCOPE_UPGRADE = "scope_upgrade"
    """The provider file requires more than it did when the user consented."""
    REFRESH_EXHAUSTED = "refresh_exhausted"
    """The provider refused every refresh for days, with a code that its file does not list."""
    REVOKED_AT_PROVIDER = "revoked_at_provider"
    """The user, or their administrator, took the consent back at the provider. The integration's status is then
    `revoked`."""


class RefreshEnd(StrEnum):
    """How a refresh ended, for the metrics. An integration without a refresh token is not refreshed, and nothing is
    counted for it."""

    REFRESHED = "refreshed"
    REAUTH = "reauth"
    REVOKED = "revoked"
    OPERATOR = "operator"
    """Our client is refused, or a key is missing."""
    TRANSIENT = "transient"
    UNKNOWN = "unknown"
    INTERRUPTED = "interrupted"
    """The provider refused the refresh token after an earlier refresh whose answer could not be stored."""


class ProviderErrorKind(StrEnum):
    """The kind of a provider's refusal: who has to act on it."""

    REAUTH = "reauth"
    """The user has to act: the refresh token no longer works."""
    REVOKED = "revoked"
    """The user has to act: they, or their administrator, took the consent back."""
    OPERATOR = "operator"
    """We have to act: our client credentials or our request are wrong."""
    TRANSIENT = "transient"
    """Nobody has to act: the failure passes by itself."""
    UNKNOWN = "unknown"
    """It is unclear who has to act: the code of the refusal is unknown. An integration is marked only when such
    refusals have lasted for days."""


class ProviderState(StrEnum):
    """How a provider answers us, whoever the user is."""

    UP = "up"
    DOWN = "down"
    MISCONFIGURED = "misconfigured"
    """The provider refuses our client."""


class RevocationState(StrEnum):
    """What became of the revocation of a token at its provider."""

    PENDING = "pending"
    DONE = "done"
    SUPERSEDED = "superseded"
    """The same account is connected again, by this user or another, and revoking would end that consent too."""
    IMPOSSIBLE = "impossible"
    """The provider has no way to revoke, or we have no token that it would accept: ours is unreadable, or has run out
    and cannot be refreshed."""
    GIVEN_UP = "given_up"
    """Every attempt failed for a week."""


class SubscriptionStatus(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"


class DeliveryState(StrEnum):
    """The state of a delivery: one event on its way to one subscription, by webhook."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Every attempt failed, and no more are made."""


class EventType(StrEnum):
    """The types of the events that tell others what happened. Payloads carry ids and changed paths, never personal
    values."""

    USER_CREATED = "user.created"
    USER_UPDATED = "user.updated"
    USER_SUSPENDED = "user.suspended"
    USER_DEACTIVATED = "user.deactivated"
    USER_DELETED = "user.deleted"
    USER_RESTORED = "user.restored"
    USER_ERASED = "user.erased"
    INTEGRATION_CONNECTED = "integration.connected"
    INTEGRATION_DEGRADED = "integration.degraded"
    INTEGRATION_RECOVERED = "integration.recovered"
    INTEGRATION_NEEDS_REAUTH = "integration.needs_reauth"
    INTEGRATION_REVOKED = "integration.revoked"
    INTEGRATION_DISCONNECTED = "integration.disconnected"


class JobName(StrEnum):
    SWEEP_LEASES = "sweep_leases"
    REFRESH_DUE_TOKENS = "refresh_due_tokens"
    RELAY_OUTBOX = "relay_outbox"
    MAINTAIN_TABLES = "maintain_tables"
    RETRY_WEBHOOKS = "retry_webhooks"
    ERASE_USERS = "erase_users"
    RECONCILE_CLERK = "reconcile_clerk"
    REVOKE_TOKENS = "revoke_tokens"
    REWRAP_SECRETS = "rewrap_secrets"
    CHECK_INTEGRATIONS = "check_integrations"
    DELIVER_WEBHOOKS = "deliver_webhooks"


class RateClass(StrEnum):
    """The class of a request for the rate limits: who is counted. Each has its own quota (`LIMITS_…`)."""

    USER = "user"
    """A signed-in user."""
    ANONYMOUS = "anonymous"
    """An address, for requests without a sign-in and, counted apart from those, for refused credentials."""
    SIGN_IN = "sign-in"
    """An address that tries to sign in."""
    WEBHOOK = "webhook"
    """An address, for webhooks without a good signature."""
    INTERNAL = "internal"
    """A sibling service; each process counts for itself."""
