"""All cryptography of the service. Nothing here reads the database. Only the key sources read settings: those about the
encryption keys."""
