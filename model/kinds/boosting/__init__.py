"""Boosted trees, for data with labels."""
