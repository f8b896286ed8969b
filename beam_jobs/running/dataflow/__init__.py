"""Google Cloud Dataflow: the checks before a submission, the submission, the wait for the end of a bounded job."""
