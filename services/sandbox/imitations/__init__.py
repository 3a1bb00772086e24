"""Google, Microsoft, GitHub, Slack and an invented one, as far as their OAuth goes: personas over the one provider."""
