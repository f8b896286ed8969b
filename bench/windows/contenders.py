"""Who computes the window features of ``bench.windows.world``, and how it is started.

Each reads the topic from the earliest record to the latest and decodes it. In a measurement the peers drop their
features; Highbeam scores each row and writes alerts. To be checked, each writes its features to a file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from beam_jobs.io.kafka.address import KafkaAddress
from bench.peers.maven import built
from bench.windows.world import FUNCTIONS, MINUTES, UseCases
from bench.world import prism_options, topic

SCHEMA = Path(__file__).resolve().parent.parent.parent / "schemas" / "car_sensor.avsc"
JAVA = ("java", "-Xmx2g", "-XX:+UseParallelGC", "-cp")
KEYS = ("car_id", "time_ms", "minutes")


@dataclass(frozen=True)
class Input:
    """What is read, and where results may be put."""

    source: KafkaAddress
    records: int
    folder: Path
    use_cases: UseCases


def score(use_case: str, runner: str = "DirectRunner", *more: str) -> Callable[[Input], list[str]]:
    """The scoring job; its report is ``report.json`` in the folder."""

    def command(given: Input) -> list[str]:
        servers = given.source.bootstrap_servers
        return [
            *(sys.executable, "-m", "beam_jobs.score", "--use_case", str(given.use_cases.folders[use_case])),
            *("--model", str(given.use_cases.models), "--input", str(given.source)),
            *("--from", "earliest", "--until", "latest", "--runner", runner, *prism_options(runner)),
            *("--alerts", str(topic(servers, "alerts")), "--dead_letters", str(topic(servers, "dead"))),
            *("--report", str(given.folder / "report.json"), *more),
        ]

    return command


def archive(given: Input) -> list[str]:
    """The archive job: the features of each row, in Parquet files."""
    return [
        *(sys.executable, "-m", "beam_jobs.archive", "--use_case", str(given.use_cases.folders["windows"])),
        *("--input", str(given.source), "--from", "earliest", "--until", "latest", "--file_format", "parquet"),
        *("--dead_letters", str(topic(given.source.bootstrap_servers, "dead"))),
        *("--output", str(given.folder / "archive")),
    ]


def streams(how: str, output: str = "-", application: str = "") -> Callable[[Input], list[str]]:
    """Kafka Streams: "sliding", "rocksdb" or "memory", as Windows.java says; one of a name goes on where it was."""

    def command(given: Input) -> list[str]:
        name = application or f"windows-{time.time_ns()}"
        where = [given.source.bootstrap_servers, given.source.topic, str(given.records), str(SCHEMA), how, name]
        file = output if output == "-" else str(given.folder / output)
        return [*JAVA, built("kafka_streams"), "Windows", *where, str(given.folder / name), file]

    return command


def flink(backend: str, output: str = "-") -> Callable[[Input], list[str]]:
    """Flink SQL: "hashmap" or "rocksdb", as Over.java says."""

    def command(given: Input) -> list[str]:
        where = [given.source.bootstrap_servers, given.source.topic, str(given.records), str(SCHEMA), backend]
        checkpoints = given.folder / f"checkpoints-{time.time_ns()}"
        file = output if output == "-" else str(given.folder / output)
        return [*JAVA, built("flink"), "Over", *where, str(checkpoints), file]

    return command


@dataclass(frozen=True)
class Contender:
    """One way to the features."""

    name: str
    measured: Callable[[Input], list[str]]
    slow: bool = False  # is given a shorter stream


CONTENDERS = {
    "highbeam": Contender("Highbeam, `score`, FnApiRunner", score("windows")),
    "streams_memory": Contender("Kafka Streams, processor, rows in memory", streams("memory")),
    "streams_rocksdb": Contender("Kafka Streams, processor, rows in RocksDB", streams("rocksdb")),
    "streams_sliding": Contender("Kafka Streams, `SlidingWindows`, RocksDB", streams("sliding"), slow=True),
    "flink_hashmap": Contender("Flink SQL `OVER`, state on the heap", flink("hashmap"), slow=True),
    "flink_rocksdb": Contender("Flink SQL `OVER`, state in RocksDB", flink("rocksdb"), slow=True),
}


@dataclass(frozen=True)
class Checked:
    """One way to the features, written to files."""

    name: str
    command: Callable[[Input], list[str]]
    read: Callable[[Path], pl.DataFrame]  # of the folder; see features()


def features(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns KEYS and FUNCTIONS, a row for each result in the order they came; a deviation that is none is 0."""
    typed = frame.select(
        pl.col("car_id"), pl.col("time_ms").cast(pl.Int64), pl.col("minutes").cast(pl.Int64),
        *(pl.col(name).cast(pl.Float64).fill_nan(0.0).fill_null(0.0) for name in FUNCTIONS),
    )  # fmt: skip
    return typed


def _wide(frame: pl.DataFrame) -> pl.DataFrame:
    """Of a row a pair of results."""
    return pl.concat(
        features(
            frame.select(
                "car_id",
                "time_ms",
                pl.lit(minutes).alias("minutes"),
                *(pl.col(f"{f}_{name}").alias(f) for f in FUNCTIONS),
            )
        )
        for name, minutes in MINUTES.items()
    )


def _of_archive(folder: Path) -> pl.DataFrame:
    rows = pl.read_parquet(folder / "archive" / "**" / "*.parquet", hive_partitioning=False)
    return _wide(rows.with_columns(pl.col("event_time").cast(pl.Int64).alias("time_ms")))


def of_streams(folder: Path, file: str = "streams.csv") -> pl.DataFrame:
    names = ["car_id", "time_ms", "length", *FUNCTIONS]
    rows = pl.read_csv(
        folder / file,
        has_header=False,
        new_columns=names,
        schema_overrides=dict.fromkeys(FUNCTIONS, pl.Float64),
    )
    return features(rows.with_columns((pl.col("length") // 60_000).alias("minutes")))


def _of_flink(folder: Path) -> pl.DataFrame:
    names = ["car_id", "time_ms", *(f"{function}_{name}" for name in MINUTES for function in FUNCTIONS)]
    return _wide(pl.read_csv(folder / "flink.csv", has_header=False, new_columns=names, null_values="null"))


CHECKED = {
    "highbeam": Checked("Highbeam", archive, _of_archive),
    "streams_processor": Checked("Kafka Streams, processor", streams("memory", "streams.csv"), of_streams),
    "streams_sliding": Checked("Kafka Streams, `SlidingWindows`", streams("sliding", "streams.csv"), of_streams),
    "flink": Checked("Flink SQL `OVER`", flink("hashmap", "flink.csv"), _of_flink),
}
