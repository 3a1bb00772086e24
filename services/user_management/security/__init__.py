"""All cryptography of the service; nothing here reads a row or a setting."""
