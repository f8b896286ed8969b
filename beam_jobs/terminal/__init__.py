"""The command line: options, errors a person can read, what a job reports."""
