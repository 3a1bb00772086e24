"""HTTP to one service call each."""
