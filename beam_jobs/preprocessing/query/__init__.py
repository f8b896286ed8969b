"""The SQL query: the walk over its syntax tree, and what each kind of expression becomes."""
