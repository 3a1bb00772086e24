"""Statements that ormar cannot express: locks, upserts, compare-and-swap, and the token read."""
