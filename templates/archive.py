from beam_jobs import archive
from beam_jobs.terminal import cli

cli.run(archive.main)
