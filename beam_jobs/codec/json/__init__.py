"""JSON: whole blocks of objects, plain ones and those of Avro's own JSON encoding."""
