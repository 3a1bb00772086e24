"""A loopback imitation of the parties the service cannot reach: Clerk, and an OpenID provider of four kinds."""
