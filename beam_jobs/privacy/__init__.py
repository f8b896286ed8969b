"""Personal data after the jobs: encrypted texts back to what they were, and how many persons an archive tells apart."""
