"""The HTTP routes of the sandbox: those of every party (Clerk and the providers), controls and pages."""
