"""Several kinds together: the mean of how rare each calls a row."""
