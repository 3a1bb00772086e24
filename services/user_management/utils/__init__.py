"""Pure functions that know nothing of the service."""
