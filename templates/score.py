from beam_jobs import cli, score

cli.run(score.main)
