"""Kafka: a source and a sink of whole blocks."""
