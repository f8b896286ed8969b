from beam_jobs import archive, cli

cli.run(archive.main)
