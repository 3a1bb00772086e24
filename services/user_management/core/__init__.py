"""Vocabulary that every layer shares: time, ids, who is asking, and under which request."""
