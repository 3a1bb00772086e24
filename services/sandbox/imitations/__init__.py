"""Imitations of Google's, Microsoft's, GitHub's, Slack's and the invented Globex's OAuth. Each is a `Persona`, the
object that holds what distinguishes one of the sandbox's providers from the others."""
