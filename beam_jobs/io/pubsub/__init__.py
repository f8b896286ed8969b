"""Pub/Sub: a source and a sink of whole blocks."""
