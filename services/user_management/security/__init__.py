"""All cryptography of the service. Nothing here reads the database, and only the key sources read settings: their
own."""
