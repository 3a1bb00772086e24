"""The sources of the secrets of the key versions, in one small module each.

A source that does not hold the secrets themselves has them unwrapped (decrypted by a key management service), each
once, at the start of a process. Wrapped secrets are given in the same settings as plain ones (`ENCRYPTION_KEYS`,
`ENCRYPTION_KEYS_FILE`), so only the settings decide which versions exist.
"""

from services.user_management.security.key_sources.selection import load_secrets, open_key_source
from services.user_management.security.key_sources.source import KeySource

__all__ = ["KeySource", "load_secrets", "open_key_source"]
