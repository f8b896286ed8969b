"""CSV files as rows of a schema: the schema says what each column is, so nothing is guessed when a file is read."""
