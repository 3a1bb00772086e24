"""Imitations of the OAuth of Google, Microsoft, GitHub, Slack and the invented Globex, each as a `Persona`: what
distinguishes one of the sandbox's providers from the others."""
