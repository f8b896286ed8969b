"""Secrets, read where they are used, and Google's credentials."""
