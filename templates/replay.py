from beam_jobs import replay
from beam_jobs.terminal import cli

cli.run(replay.main)
