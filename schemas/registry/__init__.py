"""A Schema Registry for laptops and tests: Confluent's REST API over one folder."""
