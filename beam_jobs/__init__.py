"""Highbeam's Apache Beam jobs: one columnar code base from device events to alerts.

What a pipeline of one's own is made of (docs/api.md) is exported here. To import this package costs nothing and changes
nothing in the process: each name is imported when it is asked for.
"""

import signal
import sys
from typing import TYPE_CHECKING

from beam_jobs.lazy import lazily
from beam_jobs.terminal.hidden import refuse_hidden

__version__ = "0.2.0"

if TYPE_CHECKING:
    from beam_jobs.archives.read import ReadFromArchive as ReadFromArchive
    from beam_jobs.archives.sink import ArchiveSettings as ArchiveSettings
    from beam_jobs.archives.sink import WriteToArchive as WriteToArchive
    from beam_jobs.block import Block as Block
    from beam_jobs.dead_letters import step as step
    from beam_jobs.errors import UserError as UserError
    from beam_jobs.io.block_reader import BlockSettings as BlockSettings
    from beam_jobs.io.kafka.address import KafkaAddress as KafkaAddress
    from beam_jobs.io.kafka.config import KafkaConfig as KafkaConfig
    from beam_jobs.io.kafka.transforms import KafkaInput as KafkaInput
    from beam_jobs.io.kafka.transforms import KafkaOutput as KafkaOutput
    from beam_jobs.io.kafka.transforms import ReadFromKafka as ReadFromKafka
    from beam_jobs.io.kafka.transforms import WriteToKafka as WriteToKafka
    from beam_jobs.io.position import OffsetSpec as OffsetSpec
    from beam_jobs.io.pubsub.address import PubSubAddress as PubSubAddress
    from beam_jobs.io.pubsub.transforms import PubSubInput as PubSubInput
    from beam_jobs.io.pubsub.transforms import PubSubOutput as PubSubOutput
    from beam_jobs.io.pubsub.transforms import ReadFromPubSub as ReadFromPubSub
    from beam_jobs.io.pubsub.transforms import WriteToPubSub as WriteToPubSub
    from beam_jobs.io.sink import WriteSettings as WriteSettings
    from beam_jobs.samples.preview import Preview as Preview
    from beam_jobs.samples.preview import preview_of as preview_of
    from beam_jobs.steps.decode import DecodeEvents as DecodeEvents
    from beam_jobs.steps.infer import BlockModelHandler as BlockModelHandler
    from beam_jobs.steps.preprocess import Preprocess as Preprocess
    from beam_jobs.steps.score_records import CheckScores as CheckScores
    from beam_jobs.steps.score_records import to_alerts as to_alerts
    from beam_jobs.steps.score_records import to_scores as to_scores
    from beam_jobs.steps.write_dead_letters import WriteDeadLetters as WriteDeadLetters
    from beam_jobs.use_case import UseCase as UseCase
    from beam_jobs.use_case import load_use_case as load_use_case

PUBLIC = {
    "ReadFromArchive": "beam_jobs.archives.read",
    "ArchiveSettings": "beam_jobs.archives.sink",
    "WriteToArchive": "beam_jobs.archives.sink",
    "Block": "beam_jobs.block",
    "step": "beam_jobs.dead_letters",
    "UserError": "beam_jobs.errors",
    "BlockSettings": "beam_jobs.io.block_reader",
    "KafkaAddress": "beam_jobs.io.kafka.address",
    "KafkaConfig": "beam_jobs.io.kafka.config",
    "KafkaInput": "beam_jobs.io.kafka.transforms",
    "KafkaOutput": "beam_jobs.io.kafka.transforms",
    "ReadFromKafka": "beam_jobs.io.kafka.transforms",
    "WriteToKafka": "beam_jobs.io.kafka.transforms",
    "OffsetSpec": "beam_jobs.io.position",
    "PubSubAddress": "beam_jobs.io.pubsub.address",
    "PubSubInput": "beam_jobs.io.pubsub.transforms",
    "PubSubOutput": "beam_jobs.io.pubsub.transforms",
    "ReadFromPubSub": "beam_jobs.io.pubsub.transforms",
    "WriteToPubSub": "beam_jobs.io.pubsub.transforms",
    "WriteSettings": "beam_jobs.io.sink",
    "Preview": "beam_jobs.samples.preview",
    "preview_of": "beam_jobs.samples.preview",
    "DecodeEvents": "beam_jobs.steps.decode",
    "BlockModelHandler": "beam_jobs.steps.infer",
    "Preprocess": "beam_jobs.steps.preprocess",
    "CheckScores": "beam_jobs.steps.score_records",
    "to_alerts": "beam_jobs.steps.score_records",
    "to_scores": "beam_jobs.steps.score_records",
    "WriteDeadLetters": "beam_jobs.steps.write_dead_letters",
    "UseCase": "beam_jobs.use_case",
    "load_use_case": "beam_jobs.use_case",
}
"""Exported name to the module that has it."""

if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, PUBLIC)


def _is_a_command_of_ours() -> bool:
    """Whether this process is a ``python -m`` of Highbeam's, whose imports have begun with this one."""
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if sys.argv[:1] == ["-m"] and "-m" in words[:-1] else ""
    return module.partition(".")[0] in ("beam_jobs", "model", "schemas", "demo")


if _is_a_command_of_ours():
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C within the seconds of its imports ends it without a stack trace; ``cli.run`` takes over from there.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    refuse_hidden()  # python -m looks in the folder it is started in first
