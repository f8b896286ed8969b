"""The use cases that ship with Highbeam: data, a folder each; ``beam_jobs.use_case`` reads them."""
