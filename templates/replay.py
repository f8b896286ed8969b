from beam_jobs import cli, replay

cli.run(replay.main)
