"""What outliers look like: in scores, in the rows of a key, in groups of rows, in single values."""
