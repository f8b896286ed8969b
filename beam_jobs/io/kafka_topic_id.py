"""Which topic a name stands for: one that was deleted and made anew counts its offsets from 0 again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from beam_jobs.errors import UnreachableError, UserError
from beam_jobs.io.kafka_client import client_errors, user_error
from beam_jobs.io.kafka_config import KafkaConfig
from beam_jobs.io.kafka_fetch import DebugLog
from beam_jobs.io.uri import KafkaAddress

_LOGGER = logging.getLogger(__name__)

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class KafkaTopic:
    """A topic with the id its cluster gave it; picklable, without secrets."""

    address: KafkaAddress
    config: KafkaConfig
    id: str  # "": brokers before 2.8 give none, a topic made anew can't be told from the old one

    @staticmethod
    def find(address: KafkaAddress, config: KafkaConfig) -> KafkaTopic:
        """Asks the cluster; the topic is known to exist.

        Raises:
          UnreachableError: no answer.
          UserError: access is denied.
        """
        try:
            return KafkaTopic(address, config, TopicIds(address, config).now())
        except KafkaException as error:
            failure = error.args[0]
            raise user_error(address, failure) or UnreachableError(
                f"{address}: the broker does not say the topic's id ({failure.str()}); try again"
            ) from error

    def positions(self) -> str:
        """What the topic's offsets are remembered under: two topics of one name, one after the other, differ."""
        return f"{self.address.topic}#{self.id}" if self.id else self.address.topic


class TopicIds:
    """Asks for a topic's id again and again."""

    def __init__(self, address: KafkaAddress, config: KafkaConfig) -> None:
        self._address = address
        with client_errors(address):
            self._admin: Any = AdminClient(
                {**config.resolved(), "bootstrap.servers": address.bootstrap_servers, "logger": DebugLog()}
            )

    def now(self) -> str:
        """The id, "" where the cluster has none; KafkaException when it doesn't answer or the topic is gone."""
        asked = self._admin.describe_topics(TopicCollection([self._address.topic]), request_timeout=_TIMEOUT_S)
        found = asked[self._address.topic].result().topic_id
        return str(found) if found.get_most_significant_bits() or found.get_least_significant_bits() else ""

    def check(self, topic: KafkaTopic) -> None:
        """Refuses to go on once the topic is another one; a cluster that doesn't answer is asked the next time.

        Raises:
          UserError: the topic was deleted and made anew.
        """
        try:
            now = self.now()
        except KafkaException as error:
            _LOGGER.debug("%s: the topic's id is not known: %s", self._address, error)
            return
        if topic.id and now and now != topic.id:
            raise UserError(
                f"{self._address}: the topic was deleted and made anew while it was archived; what was read since the "
                "last commit is not taken: start the job again, with --from earliest to have the new topic whole"
            )
