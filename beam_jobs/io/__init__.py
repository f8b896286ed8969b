"""Message buses: blocks in and out. Nothing here knows a use case."""
