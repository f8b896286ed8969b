"""Features over the past of a key."""
