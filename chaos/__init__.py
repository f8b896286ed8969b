"""A chaos campaign: whole jobs under faults, and accounts of what came out that ask no job; ``python -m chaos``."""
