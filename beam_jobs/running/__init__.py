"""From a parsed command line to a running job: the runner, its processes, its end."""
