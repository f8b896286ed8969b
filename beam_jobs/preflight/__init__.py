"""What each job needs before it can start: its options checked, and that what they name is there and fits together."""
