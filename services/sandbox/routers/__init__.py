"""The HTTP surface of every party."""
