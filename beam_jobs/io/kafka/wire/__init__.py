"""The part of Kafka's protocol that reading needs, spoken without a client library."""
