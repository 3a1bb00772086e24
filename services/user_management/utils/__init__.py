"""Pure functions that depend on nothing else in the service."""
