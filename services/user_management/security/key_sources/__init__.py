"""The sources of the key versions' secrets, in one small module each.

A source that does not hold secrets itself unwraps each of them once, at the start of a process. Wrapped secrets are
given in the same settings as plain ones (`ENCRYPTION_KEYS`, `ENCRYPTION_KEYS_FILE`), so only the settings decide which
versions exist.
"""

from services.user_management.security.key_sources.selection import load_secrets, open_key_source
from services.user_management.security.key_sources.source import KeySource

__all__ = ["KeySource", "load_secrets", "open_key_source"]
