"""Avro: whole blocks of binary values and container files, by a compiled machine."""
