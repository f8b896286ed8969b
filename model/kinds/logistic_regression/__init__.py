"""Labels say what it means that values are rare: a logistic regression of how rare each of them is."""
