"""The HTTP routes of every party."""
