"""Credentials to principals, and the guards that routes declare."""
