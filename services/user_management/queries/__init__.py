"""Statements that ormar cannot say: locks, upserts, compare-and-swap, and the token read."""
