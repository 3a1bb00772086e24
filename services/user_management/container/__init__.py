"""The object graph of a process: one frozen group of services per feature, each built by hand by one function."""

from services.user_management.container.process import DRAIN_SECONDS, SCHEMA_MISSING, Container

__all__ = ["DRAIN_SECONDS", "SCHEMA_MISSING", "Container"]
