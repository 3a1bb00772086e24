"""Vocabulary that every layer shares: time, ids, principals and the context of a request."""
