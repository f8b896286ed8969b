"""The jobs that are published as Flex Templates: a new one is an entry here and a launcher of three lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_jobs.terminal.commands import JOBS, Command


@dataclass(frozen=True)
class Template:
    """What the option classes of a job do not say."""

    job: str  # module beam_jobs.JOB, launcher templates/JOB.py, metadata templates/JOB.json
    title: str  # as the console lists it
    description: str
    streaming: bool
    at_least_once: bool = False  # may run in Dataflow's at-least-once mode: what it writes twice has the same id
    special: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # metadata of a parameter, by its name

    @property
    def command(self) -> Command:
        """The job's."""
        return JOBS[self.job]


_FOLDER = r"^gs://[a-z0-9][a-z0-9._-]+(/\S*)?$"
_FILE = r"^gs://[a-z0-9][a-z0-9._-]+/\S+$"

TEMPLATES = {
    template.job: template
    for template in (
        Template(
            job="score",
            title="Highbeam: score events, raise alerts",
            description="Reads events, preprocesses them with the use case's SQL, scores them by the model in the job "
            "and writes alerts. Without 'until' it runs until it is drained.",
            streaming=True,
            at_least_once=True,
        ),
        Template(
            job="archive",
            title="Highbeam: archive events as training data",
            description="Reads events and writes them, or the features made of them, to Cloud Storage by event time, "
            "each record in exactly one row. Without 'until' it runs until it is drained.",
            streaming=True,
            special={
                "output": {
                    "helpText": "Folder of the archive: gs://bucket/folder.",
                    "paramType": "GCS_WRITE_FOLDER",
                    "regexes": [_FOLDER],
                },
                "keep_keys": {"parentName": "raw", "parentTriggerValues": ["true"]},
                "enrich": {"paramType": "GCS_READ_FILE", "regexes": [_FILE]},
                "enrich_on": {"parentName": "enrich"},  # shown where it has any value
                "enrich_every": {"parentName": "enrich"},
            },
        ),
        Template(
            job="replay",
            title="Highbeam: put an archive back on a topic",
            description="Reads an archive of events and writes them to a topic, with their keys, timestamps and order, "
            "as fast as it goes or paced by event time.",
            streaming=False,
            special={
                "input": {
                    "paramType": "GCS_READ_FOLDER",
                    "regexes": [_FOLDER],
                    "helpText": "Archive: gs://bucket/folder.",
                },
                "output": {"paramType": "TEXT", "helpText": "Topic the events are put on: kafka://host:9092/topic."},
            },
        ),
    )
}
