"""The SQL statements, one module per subject: locks, upserts, compare-and-swap and other statements that ormar cannot
express, and the statements that must be fast."""
