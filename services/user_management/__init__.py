"""The user management service: users, their preferences, and the OAuth tokens that sibling services read."""
