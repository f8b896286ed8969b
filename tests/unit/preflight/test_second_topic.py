from __future__ import annotations

import pytest

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.preflight.second_topic import check_kept, lost_rows

TOPIC = KafkaAddress.parse("kafka://localhost:9092/rows")


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("cleanup.policy", "compact,delete", "cleanup.policy=delete"),
        ("message.timestamp.type", "LogAppendTime", "message.timestamp.type=CreateTime"),
        ("retention.ms", "3600000", "retention.ms=-1"),
    ],
)
def test_a_topic_that_loses_what_windows_need_is_refused(name: str, value: str, remedy: str) -> None:
    with pytest.raises(UserError, match=f"its {name} is {value}; windows need every record for 3,600,000 ms.*{remedy}"):
        check_kept(TOPIC, {name: value}, 3_600_000)


def test_what_keeps_them_longer_is_taken() -> None:
    check_kept(TOPIC, {}, 3_600_000)
    kept = {"cleanup.policy": "delete", "message.timestamp.type": "CreateTime"}
    for retention in ("-1", "3600001"):
        check_kept(TOPIC, {**kept, "retention.ms": retention}, 3_600_000)


def test_a_topic_that_lacks_the_rows_of_a_group_is_told() -> None:
    assert "holds none of the rows that group jobs brought before" in lost_rows(TOPIC, [0, 0], "jobs")
    assert "partition 1 was added, and keys have moved" in lost_rows(TOPIC, [500, 0], "jobs")
    for ends, group in (([0, 0], None), ([3, 0], "jobs"), ([500, 1], "jobs"), ([500, 1], None)):
        assert not lost_rows(TOPIC, ends, group)
