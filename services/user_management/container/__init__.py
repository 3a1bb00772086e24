"""The container: all services of a process, with what they need, in one frozen group per feature. One function builds
each group, without a framework for dependency injection."""

from services.user_management.container.process import DRAIN_SECONDS, SCHEMA_MISSING, Container

__all__ = ["DRAIN_SECONDS", "SCHEMA_MISSING", "Container"]
