"""Checks for settings that production refuses."""

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from services.user_management.settings.groups import DEVELOPMENT_SECRET, EncryptionGroup, KeySourceKind
from services.user_management.settings.root import Settings


def production_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (variable, reason) for every setting that production refuses."""
    if settings.sandbox.url:
        yield "SANDBOX_URL", "must not be set in production"
    if settings.clerk.secret_key is None:
        yield "CLERK_SECRET_KEY", "is required"
    for variable, group in (("DATABASE_URL", settings.database), ("REDIS_URL", settings.redis)):
        if "url" not in group.model_fields_set:
            yield variable, "is required"
    yield from _weak_secrets(settings)
    yield from _weak_urls(settings)


def _weak_secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    defaults = Settings.model_construct()
    for variable, given, default in (
        (
            "CLERK_WEBHOOK_SIGNING_SECRET",
            settings.clerk.webhook_signing_secret,
            defaults.clerk.webhook_signing_secret,
        ),
        ("ENCRYPTION_SALT", settings.encryption.salt, defaults.encryption.salt),
        ("SIGNING_SECRET", settings.signing.secret, defaults.signing.secret),
    ):
        if given == default:
            yield variable, "is the development default"
        elif any(len(secret) < 32 for secret in given.get_secret_value().split()) or not given.get_secret_value():
            yield variable, "is shorter than 32 characters"
    yield from _weak_keys(settings.encryption)


def _weak_keys(encryption: EncryptionGroup) -> Iterator[tuple[str, str]]:
    """Yield (variable, reason) for each key, in the variable or in the file, that is publicly known or easy to guess.
    Wrapped keys cannot be judged."""
    if encryption.source is not KeySourceKind.STATIC:
        return
    development = DEVELOPMENT_SECRET.encode()[:32]
    in_variable = {version: key.get_secret_value() for version, key in encryption.keys.items()}
    for version, key in encryption.secrets().items():
        variable = "ENCRYPTION_KEYS" if in_variable.get(version) == key else "ENCRYPTION_KEYS_FILE"
        if key == development:
            yield variable, "contains the development key"
        elif len(set(key)) < 8:
            yield variable, f"version {version} is not random"


def _weak_urls(settings: Settings) -> Iterator[tuple[str, str]]:
    transit = settings.encryption.transit_url
    if transit is not None and not transit.startswith("https://") and not _is_this_machine(_host(transit)):
        # Plain http is allowed only to an agent beside this process, which speaks TLS for us.
        yield "ENCRYPTION_TRANSIT_URL", "must be an https URL, or an agent's on this machine"
    for variable, url in _urls(settings):
        if not url.startswith("https://"):
            yield variable, "must be an https URL"
        elif _is_this_machine(_host(url)):
            yield variable, "points at this machine"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _urls(settings: Settings) -> Iterator[tuple[str, str]]:
    yield "PUBLIC_URL", settings.public_url
    yield "CLERK_ISSUER", settings.clerk.issuer
    yield "CLERK_JWKS_URL", settings.clerk.keys_url
    yield "CLERK_API_URL", settings.clerk.api_url
    yield "FRONTEND_CONNECT_URL", settings.frontend.connect_url
    if settings.encryption.kms_endpoint is not None:
        yield "ENCRYPTION_KMS_ENDPOINT", settings.encryption.kms_endpoint
    for variable, urls in (
        ("CLERK_AUTHORIZED_PARTIES", settings.clerk.authorized_parties),
        ("FRONTEND_ORIGINS", settings.frontend.origins),
        ("FRONTEND_RETURN_URLS", settings.frontend.return_urls),
        ("FRONTEND_REDIRECT_URIS", settings.frontend.redirect_uris),
    ):
        yield from ((variable, url) for url in urls)
