"""Dataflow Flex Templates: metadata, image, publishing. For a checkout; not installed with the package."""
