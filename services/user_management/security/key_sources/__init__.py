"""Where the secrets of the key versions come from: one small module per source.

A source that does not hold secrets itself unwraps them, once each, at the start of a process. The wrapped ones lie
where the plain ones would (`ENCRYPTION_KEYS`, `ENCRYPTION_KEYS_FILE`): which versions there are, only we say.
"""

from services.user_management.security.key_sources.selection import load_secrets, open_key_source
from services.user_management.security.key_sources.source import KeySource

__all__ = ["KeySource", "load_secrets", "open_key_source"]
