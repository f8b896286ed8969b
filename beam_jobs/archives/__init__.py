"""Archives: files of events or features by event time, each row in exactly one; written, read back and replayed."""
