"""From payment to alert: latency of the live scoring job of payment_fraud, all its windows, both stages.

    python -m bench.fraud_latency --rate 2000 --seconds 180

Apache Kafka, four partitions. 200,000 cards have paid for a week (1.9 million payments), which the job scores first, so
that it knows them all; then the payments of the eighth day come at an even rate, as of now. Latency of an alert is the
time from when its payment was made into a record until a consumer has the alert, both by the clock of this machine:
producer, broker, both stages, broker, consumer. That of all payments is the job's own: of the slowest record of each
block, from the broker's timestamp to the end of the bundle. Figures go to bench/results/fraud_latency.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.codec.avro.encoder import AvroEncoder
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.sandbox.cards import DAY_MS
from beam_jobs.sandbox.frauds import Payments, simulate
from beam_jobs.use_case import load_use_case
from bench.processes import resident_mb, tree
from bench.world import SCHEMA_ID, send_evenly, topic
from demo.broker import ApacheKafka

RESULTS = Path(__file__).parent / "results" / "fraud_latency.json"
USE_CASE = "payment_fraud"
CARDS, DAYS = 200_000, 7  # of the history; the day after that is what comes live
TRAINING = 3_000, 45  # cards, days
TICK_S, BLOCK = 0.005, 50_000
SETTLE_S = 10.0  # at the start, which is not measured: compilers, the producer


def payments(cards: int) -> Payments:
    """A week that ends now, and a day more; the same cards and merchants for all who ask within a run."""
    now = int(os.environ["BENCH_NOW_MS"])
    return simulate(cards, DAYS + 1, 7, 0.0017, now - DAYS * DAY_MS)


def encoder() -> AvroEncoder:
    return AvroEncoder(load_use_case(USE_CASE).schema, SCHEMA_ID)


def fill(address: KafkaAddress, events: pa.RecordBatch) -> None:
    """Puts the history on the topic, as records of its times."""
    producer = Producer({"bootstrap.servers": address.bootstrap_servers, "linger.ms": 50, "batch.size": 1_000_000})
    encode = encoder()
    for begin in range(0, events.num_rows, BLOCK):
        block = events.slice(begin, BLOCK)
        times = block.column("event_time").cast(pa.int64()).to_pylist()
        keys = block.column("card").to_pylist()
        for key, value, time_ms in zip(keys, encode.encode(block).to_pylist(), times, strict=True):
            while True:
                try:
                    producer.produce(address.topic, value, key, timestamp=time_ms)
                    break
                except BufferError:
                    producer.poll(0.1)
    producer.flush()


def pump(servers: str, name: str, rate: float, seconds: float, cards: int) -> None:
    """Sends the payments of the last day at an even rate, as of now."""
    table = payments(cards).table(0).combine_chunks().to_batches()[0]
    since = pa.scalar(int(os.environ["BENCH_NOW_MS"]))
    live = table.filter(pc.greater_equal(table.column("event_time").cast(pa.int64()), since))
    print(send_evenly(servers, name, live, "card", encoder(), rate, seconds, TICK_S), flush=True)


def train(folder: Path) -> Path:
    """A model of another, smaller world; returns the registry folder."""
    data, registry = folder / "payments.parquet", folder / "models"
    pq.write_table(simulate(*TRAINING, 2, 0.0017).table(), data)
    command = [sys.executable, "-m", "model.train", "--use_case", USE_CASE, "--data", str(data)]
    subprocess.run([*command, "--registry", str(registry), "--no-baseline"], check=True)
    return registry


class Alerts:
    """Reads the alerts as any consumer does, and when each came."""

    def __init__(self, address: KafkaAddress) -> None:
        self._decoder = AvroDecoder(schemas.load("alert"), lambda _: schemas.load("alert"), ["event_time"])
        self._consumer = Consumer({"bootstrap.servers": address.bootstrap_servers, "group.id": "bench"})
        self._consumer.assign([TopicPartition(address.topic, 0, 0)])
        self._found: list[tuple[float, NDArray[np.int64]]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Alerts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.1)
            if message is None or message.error():
                continue
            now = time.time() * 1000
            rows = self._decoder.decode(pa.array([message.value()], pa.binary())).rows
            self._found.append((now, rows.column("event_time").cast(pa.int64()).to_numpy()))

    def latencies(self, since_ms: float) -> NDArray[np.float64]:
        """Milliseconds from payment to alert, of payments since then, [n]."""
        each = [now - times[times >= since_ms] for now, times in self._found]
        return np.concatenate(each) if each else np.zeros(0)


def quantiles(values: NDArray[Any]) -> dict[str, float | None]:
    """p50, p99 and the largest."""
    if not len(values):
        return {"p50": None, "p99": None, "max": None}
    p50, p99, most = np.quantile(values, (0.5, 0.99, 1)).tolist()
    return {"p50": round(p50, 1), "p99": round(p99, 1), "max": round(most, 1)}


def cpu_seconds(pid: int) -> float:
    """Of a process and those of its children that live."""
    ticks = 0
    for member in tree(pid):
        try:
            ticks += sum(map(int, Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()[11:13]))
        except OSError:
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    job = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield job
    finally:
        if job.poll() is None:
            job.kill()
        job.wait()


def measure(servers: str, model: Path, args: argparse.Namespace, more: Sequence[str], folder: Path) -> dict[str, Any]:
    """Figures of the job while payments come."""
    source, alerts = topic(servers, "payments", 4), topic(servers, "alerts")
    table = payments(args.cards).table(0).combine_chunks().to_batches()[0]
    before = pc.less(table.column("event_time").cast(pa.int64()), int(os.environ["BENCH_NOW_MS"]))
    history = table.filter(before)
    print(f"{history.num_rows:,} payments of {args.cards:,} cards go to the topic", flush=True)
    fill(source, history)
    report = folder / "report.json"
    command = [
        *(sys.executable, "-m", "beam_jobs.score", "--use_case", USE_CASE, "--model", str(model)),
        *("--input", str(source), "--from", "earliest", "--group_id", "bench", "--report", str(report)),
        *("--alerts", str(alerts), "--dead_letters", str(topic(servers, "dead")), "--progress", "json"),
        *more,
    ]
    pumping = [sys.executable, "-m", "bench.fraud_latency", "--pump", servers, source.topic, "--cards", str(args.cards)]
    pumping += ["--rate", str(args.rate), "--seconds", str(args.seconds + SETTLE_S)]
    with running(command) as job, Alerts(alerts) as watched:
        assert job.stderr is not None
        started, sender, begun = time.monotonic(), None, 0.0
        progress: list[dict[str, Any]] = []
        memory: list[float] = []
        cpu = [0.0, 0.0]
        for line in job.stderr:
            if not line.startswith("{"):
                print(line, end="", flush=True)
                continue
            now = json.loads(line)
            if sender is None:
                if len(progress) % 10 == 9:
                    print(f"{now['scored']:,} of the history scored", flush=True)
                progress.append(now)
                if now["scored"] + now["dead_letters"] >= history.num_rows:
                    progress.clear()
                    print(f"scored the history in {time.monotonic() - started:.0f} s", flush=True)
                    sender = subprocess.Popen(pumping, stdout=subprocess.PIPE, text=True)
                continue
            if not begun and now["scored"] > history.num_rows:
                begun = time.time()
            if begun and time.time() - begun > SETTLE_S:
                if not memory:
                    cpu[0], measured_from = cpu_seconds(job.pid), time.time()
                memory.append(resident_mb(job.pid))
                progress.append(now)
                if len(progress) % 10 == 0:
                    kept = {name: now[name] for name in ("events_per_second", "latency_ms_p50", "latency_ms_p99")}
                    print(
                        kept,
                        f"{memory[-1]:.0f} MB, alerts {quantiles(watched.latencies((begun + SETTLE_S) * 1000))}",
                        flush=True,
                    )
            if sender.poll() is not None:
                break
        assert sender is not None
        assert sender.stdout is not None
        cpu[1], took = cpu_seconds(job.pid), time.time() - measured_from
        sent = int(sender.stdout.read().split()[-1])
        job.send_signal(signal.SIGINT)
        job.communicate(timeout=180)
        since = watched.latencies((begun + SETTLE_S) * 1000)
    result = json.loads(report.read_text())
    p99 = np.array([each["latency_ms_p99"] for each in progress if each["latency_ms_p99"] is not None])
    return {
        "rate": args.rate,
        "seconds": args.seconds,
        "cards": args.cards,
        "history": history.num_rows,
        "sent": sent,
        "scored": result["scored"] - history.num_rows,
        "unaccounted": result["unaccounted"],
        "alerts": len(since),
        "payment_to_alert_ms": quantiles(since),
        "job_latency_ms": result["latency_ms"],  # of all payments
        "job_p99_of_seconds_ms": quantiles(p99),
        "cores": round((cpu[1] - cpu[0]) / took, 2),
        "memory_mb": {"min": round(min(memory)), "max": round(max(memory))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.fraud_latency", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=2000)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--cards", type=int, default=CARDS)
    parser.add_argument("--model", type=Path, help="a registry with a model of payment_fraud, instead of training one")
    parser.add_argument("--pump", nargs=2, metavar=("SERVERS", "TOPIC"), help=argparse.SUPPRESS)
    args, more = parser.parse_known_args()  # others are the job's
    os.environ.setdefault("HIGHBEAM_PII_KEY", "of a benchmark, so no secret")
    os.environ.setdefault("BENCH_NOW_MS", str(time.time_ns() // 1_000_000))
    if args.pump:
        servers, name = args.pump
        pump(servers, name, args.rate, args.seconds, args.cards)
        return
    with tempfile.TemporaryDirectory() as folder, ApacheKafka() as broker:
        result = measure(broker.bootstrap_servers, args.model or train(Path(folder)), args, more, Path(folder))
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[f"{args.rate:g}/s, {args.seconds:g} s, {args.cards:,} cards"] = result
    RESULTS.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
