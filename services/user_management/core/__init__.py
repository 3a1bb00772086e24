"""What every layer shares: time, ids, principals, the context of a request, pages of lists, failpoints and the like."""
