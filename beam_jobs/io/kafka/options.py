"""Which client settings a side of a job has, by the options of its command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from beam_jobs.io.kafka.config import KafkaConfig

Side = Literal["input", "output"]


def client_file(options: Mapping[str, Any], side: Side) -> tuple[str, str | None]:
    """The option that names the client settings of one side of a job, and what it names."""
    own = options.get(f"{side}_kafka_config")
    return (f"--{side}_kafka_config", own) if own else ("--kafka_config", options.get("kafka_config"))


def client_config(options: Mapping[str, Any], side: Side) -> KafkaConfig:
    """The client settings of one side of a job.

    Raises:
      UserError: as :meth:`KafkaConfig.from_file`.
    """
    flag, path = client_file(options, side)
    return KafkaConfig.from_file(path, flag)
