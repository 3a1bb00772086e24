"""All cryptography of the service; nothing here reads a row, and of the settings only the key sources see their own."""
