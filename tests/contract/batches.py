"""What every fetch path must do with record batches that are damaged, or made to do damage; on a real broker."""

from __future__ import annotations

import logging
import re
from collections import Counter

import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.source import KafkaSource
from beam_jobs.io.position import LATEST
from tests.contract.reads import SourceSuite, opened, read, read_all, values
from tests.services.kafka_cluster import RealCluster, Record
from tests.unit.io.kafka.wire import record_batches as rb


class BatchesContract(SourceSuite):
    """One test a promise."""

    def test_a_bit_flipped_on_the_brokers_disk_is_not_read(
        self, cluster: RealCluster, caplog: pytest.LogCaptureFixture
    ) -> None:
        topic = cluster.create(2)
        for value in (b"before", b"flipped", b"after"):  # a batch each
            cluster.write(topic, [Record(value)])
        cluster.write(topic, [Record(b"other", partition=1)])
        cluster.flip(topic, 0, b"flipped")
        self._left_alone(cluster, topic, "checksum|CRC32C", caplog)
        with pytest.raises(UserError, match=r"partition 0: what the broker holds at offset 1 .*(checksum|CRC32C)"):
            read_all(self.bounded(cluster, topic))
        unchecked = cluster.transport(topic, config=KafkaConfig.from_mapping({"check.crcs": "false"}))
        rows = read_all(KafkaSource(unchecked, until=LATEST))
        assert [row["value"] for row in rows if row["partition"] == 0][:3] == [b"before", b"glipped", b"after"]

    @pytest.mark.parametrize("codec", ["gzip", "zstd"])
    def test_a_batch_that_unpacks_to_too_much_is_not_read(
        self, cluster: RealCluster, codec: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        topic = cluster.create(2)
        cluster.write(topic, [Record(b"before")])
        cluster.write(topic, [Record(b"\0" * 150_000_000)], codec)
        cluster.write(topic, [Record(b"after"), Record(b"other", partition=1)])
        self._left_alone(cluster, topic, "more than 134217728 bytes|ompression", caplog)

    def _left_alone(self, cluster: RealCluster, topic: str, why: str, caplog: pytest.LogCaptureFixture) -> None:
        """A bad batch at offset 1 of partition 0: its partition stops there, for a reason, the other one goes on."""

        def said(level: int) -> list[str]:
            return [record.getMessage() for record in caplog.records if record.levelno == level]

        with caplog.at_level(logging.WARNING), pytest.MonkeyPatch.context() as patch:
            patch.setattr("beam_jobs.io.reading._PATIENCE_S", 0.05)
            reader = opened(self.live(cluster, topic))
            rows = read(reader, lambda rows: len(rows) >= 2 and bool(said(logging.ERROR)))
            for i in range(3):
                cluster.write(topic, [Record(b"later %d" % i, partition=p) for p in (0, 1)])
                rows += read(reader, bool)
            assert reader.get_checkpoint_mark().positions == {0: 1, 1: 4}
            reader.close()
        assert values(rows) == Counter([b"before", b"other", *(b"later %d" % i for i in range(3))])
        (error,) = said(logging.ERROR)
        assert re.search(rf"partition 0: what the broker holds at offset 1 can't be read: .*({why})", error)
        assert "the others are" in error
        assert not any("back" in text for text in said(logging.WARNING))  # it is not

    def test_header_names_that_are_no_text(self, cluster: RealCluster, caplog: pytest.LogCaptureFixture) -> None:
        """The client library ends the process over one that is looked at; its path says so and leaves the headers."""
        topic = cluster.create()
        headers = ((b"\xff", b"x"), ("n\u00e4me".encode(), None))
        cluster.write_batch(topic, 0, rb.batch([rb.Rec(b"v", headers=headers), rb.Rec(b"w")]))
        first, second = read_all(self.bounded(cluster, topic))
        expected = [{"key": "\ufffd", "value": b"x"}, {"key": "n\u00e4me", "value": None}]
        said = "partition 0, offset 0: the name of a header is no UTF-8" in caplog.text
        assert (first["value"], first["headers"]) == (b"v", None if said else expected)
        assert (second["value"], second["headers"]) == (b"w", None)
