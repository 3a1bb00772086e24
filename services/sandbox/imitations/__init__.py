"""Google, Microsoft, GitHub and Slack as far as their OAuth is concerned, each a persona over the one provider."""
