"""Opens the key source that `ENCRYPTION_SOURCE` names, and loads the secrets of all its key versions."""

import importlib

from services.user_management.exceptions import StartupError
from services.user_management.security.key_sources.source import KEYS_VARIABLE, KeySource
from services.user_management.security.key_sources.static import StaticKeySource
from services.user_management.security.key_sources.transit import TransitKeySource, TransitTarget
from services.user_management.settings.groups import EncryptionGroup, KeySourceKind

AWS_KMS_MODULE = "services.user_management.security.key_sources.aws_kms"


def open_key_source(settings: EncryptionGroup) -> KeySource:
    """Return the key source that `ENCRYPTION_SOURCE` names, with the key versions that `ENCRYPTION_KEYS` and
    `ENCRYPTION_KEYS_FILE` hold. Nothing is unwrapped yet.

    Raises StartupError naming the variable that is missing or cannot be used.
    """
    try:
        given = settings.secrets()
    except ValueError as error:
        raise StartupError(f"ENCRYPTION_KEYS_FILE: {error}") from None
    if settings.source is KeySourceKind.AWS_KMS:
        return _aws_kms(settings, given)
    if settings.source is KeySourceKind.TRANSIT:
        return TransitKeySource(_transit_target(settings), given)
    return StaticKeySource(given)


def load_secrets(source: KeySource) -> dict[int, bytes]:
    """Return the secret of every version of `source`, which may take seconds. Raises StartupError if one cannot be
    loaded or there is none."""
    secrets_by_version = {version: source.load(version) for version in source.versions()}
    if not secrets_by_version:
        raise StartupError(f"{KEYS_VARIABLE}: at least one key version is needed")
    return secrets_by_version


def _aws_kms(settings: EncryptionGroup, given: dict[int, bytes]) -> KeySource:
    key_id = _required(settings, "kms_key_id", settings.kms_key_id)
    region = _required(settings, "kms_region", settings.kms_region)
    # Imported by name and only here: botocore costs a process 14 MB and 0.4 s, whether it talks to AWS or not.
    module = importlib.import_module(AWS_KMS_MODULE)
    source: KeySource = module.AwsKmsKeySource(
        module.KmsTarget(key_id=key_id, region=region, endpoint=settings.kms_endpoint), given
    )
    return source


def _transit_target(settings: EncryptionGroup) -> TransitTarget:
    token = settings.transit_token
    if token is None and settings.transit_token_file is None:
        either = "ENCRYPTION_TRANSIT_TOKEN (or ENCRYPTION_TRANSIT_TOKEN_FILE)"
        raise StartupError(f"{either}: is required with ENCRYPTION_SOURCE={settings.source}")
    return TransitTarget(
        url=_required(settings, "transit_url", settings.transit_url),
        key=_required(settings, "transit_key", settings.transit_key),
        mount=settings.transit_mount,
        token=None if token is None else token.get_secret_value(),
        token_file=settings.transit_token_file,
        ca_file=settings.transit_ca_file,
    )


def _required(settings: EncryptionGroup, name: str, value: str | None) -> str:
    if value is None:
        raise StartupError(f"ENCRYPTION_{name.upper()}: is required with ENCRYPTION_SOURCE={settings.source}")
    return value
