"""A look at events apart from any job: what is on a topic or in a file, and what a use case makes of it."""
