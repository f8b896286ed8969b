from beam_jobs import score
from beam_jobs.terminal import cli

cli.run(score.main)
