"""Imitations of the OAuth of Google, Microsoft, GitHub, Slack and the invented Globex, each a persona of a provider."""
