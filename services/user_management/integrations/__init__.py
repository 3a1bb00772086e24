"""Adapters to other parties: providers, Clerk's API and the receivers of webhooks."""
