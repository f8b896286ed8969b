"""PyFlink's Table API as in its documentation: a Kafka table in, a vectorised (pandas) function, a Kafka table out.

    python -m bench.peers.own_venv pyflink SERVERS TOPIC ALERTS_TOPIC WEIGHTS RECORDS

Settings: a local cluster with two task slots, values as bytes (format ``raw``), Arrow batches of 10,000 rows, bundles
of 100,000 rows, one fastavro call a record and the network once a batch in numpy inside the function, the source
bounded by the latest offset, the producer's linger at 5 ms. The Kafka connector comes from Maven.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from pyflink.table import (  # type: ignore[import-not-found,unused-ignore]
    DataTypes,
    EnvironmentSettings,
    TableEnvironment,
)
from pyflink.table.udf import udf  # type: ignore[import-not-found,unused-ignore]

from bench.peers import net

START = time.time()
CONNECTOR = "org.apache.flink:flink-sql-connector-kafka:4.0.1-2.0"
CACHE = Path(os.environ["BENCH_CACHE"])  # own_venv's


def connector() -> Path:
    """The connector's jar; fetched on first use."""
    _, name, version = CONNECTOR.split(":")
    jar = CACHE / f"{name}-{version}.jar"
    if not jar.exists():
        copy = ["dependency:copy", f"-Dartifact={CONNECTOR}", f"-DoutputDirectory={CACHE}"]
        subprocess.run(["mvn", "-q", "-B", *copy], check=True)
    return jar


def main(servers: str, topic: str, alerts_topic: str, weights: str, records: str) -> None:
    folder = tempfile.mkdtemp(prefix="pyflink-peer")
    network: list[net.Net] = []

    @udf(result_type=DataTypes.BYTES(), func_type="pandas")  # type: ignore[untyped-decorator,unused-ignore]
    def score(value: pd.Series, partition: pd.Series, offset: pd.Series) -> pd.Series:
        if not network:
            network.append(net.Net(weights))
            Path(tempfile.mkstemp(prefix="first", dir=folder)[1]).write_text(repr(time.time()))
        model = network[0]
        events = [net.decode(v) for v in value]
        scores = model.score([model.vector(event) for event in events])
        return pd.Series(
            [
                model.alert(event, float(s), topic, int(p), int(o)) if s > model.threshold else None
                for event, s, p, o in zip(events, scores, partition, offset, strict=True)
            ]
        )

    table = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    settings = {
        "pipeline.jars": connector().as_uri(),
        "parallelism.default": "2",
        "python.fn-execution.arrow.batch.size": "10000",
        "python.fn-execution.bundle.size": "100000",
        "python.executable": sys.executable,
        "python.client.executable": sys.executable,
    }
    for name, value in settings.items():
        table.get_config().set(name, value)
    table.create_temporary_function("score", score)
    kafka = f"'connector' = 'kafka', 'properties.bootstrap.servers' = '{servers}'"
    table.execute_sql(
        "CREATE TABLE events (body BYTES, `partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL) "
        f"WITH ({kafka}, 'topic' = '{topic}', 'format' = 'raw', 'properties.group.id' = 'pyflink', "
        "'scan.startup.mode' = 'earliest-offset', 'scan.bounded.mode' = 'latest-offset')"
    )
    table.execute_sql(
        f"CREATE TABLE alerts (body BYTES) WITH ({kafka}, 'topic' = '{alerts_topic}', 'format' = 'raw', "
        "'properties.linger.ms' = '5')"
    )
    table.execute_sql(
        "INSERT INTO alerts SELECT body FROM (SELECT score(body, `partition`, `offset`) AS body FROM events) "
        "WHERE body IS NOT NULL"
    ).wait()
    end = time.time()
    first = min(float(file.read_text()) for file in Path(folder).iterdir())
    net.result(int(records), -1, first, START, end)  # the function does not see how many alerts went out


if __name__ == "__main__":
    main(*sys.argv[1:6])
