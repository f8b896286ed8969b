"""Which topic a name stands for: one that was deleted and recreated counts its offsets from 0 again."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from confluent_kafka import KafkaException

from beam_jobs.errors import UnreachableError, UserError, one_line
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import KafkaTransport, user_error
from beam_jobs.io.kafka.config import KafkaConfig

_LOGGER = logging.getLogger(__name__)

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class KafkaTopic:
    """A topic with the id its cluster gave it; picklable, without secrets."""

    address: KafkaAddress
    config: KafkaConfig
    id: str | None  # "": brokers before 2.8 give none, a new topic can't be told from the old one; None: not asked yet

    @property
    def name(self) -> str:
        """The topic's."""
        return self.address.topic

    @property
    def is_known(self) -> bool:
        """Whether the cluster was asked for the id."""
        return self.id is not None

    @staticmethod
    def find(address: KafkaAddress, config: KafkaConfig) -> KafkaTopic:
        """Asks the cluster; the topic is known to exist.

        Raises:
          UnreachableError: no answer.
          UserError: access is denied.
        """
        try:
            return KafkaTopic(address, config, _id_now(address, config))
        except KafkaException as error:
            failure = error.args[0]
            raise user_error(address, failure) or UnreachableError(
                f"{address}: the broker does not say the topic's id ({one_line(failure.str(), 300)}); try again"
            ) from error

    def known(self) -> KafkaTopic:
        """With its id: where the job was started the cluster was out of reach, and workers ask.

        Raises:
          UserError: as in :meth:`find`.
        """
        return self if self.id is not None else KafkaTopic.find(self.address, self.config)

    def positions(self) -> str:
        """What the topic's offsets are remembered under: two topics of one name, one after the other, differ."""
        return f"{self.address.topic}#{self.id}" if self.id else self.address.topic

    def check(self) -> None:
        """Refuses to go on once the topic is another one; a cluster that doesn't answer is asked the next time.

        Raises:
          UserError: the topic was deleted and recreated.
        """
        try:
            now = _id_now(self.address, self.config)
        except KafkaException as error:
            _LOGGER.debug("%s: the topic's id is not known: %s", self.address, one_line(error))
            return
        if self.id and now and now != self.id:
            raise UserError(
                f"{self.address}: the topic was deleted and made anew while it was archived; what was read since the "
                "last commit is not taken: start the job again, it archives the new topic from its first record on"
            )


def _id_now(address: KafkaAddress, config: KafkaConfig) -> str:
    with KafkaTransport(address, config).control() as control:
        return control.topic(_TIMEOUT_S).id
