"""The whole job side by side with what a user would pick instead, interleaved in one run on the same topic.

    python -m bench.score --records 1000000 --rounds 3
    python -m bench.score --rounds 1 --only highbeam_fn,script

Apache Kafka, four partitions, the same trained network and threshold; the set of alert ids must be the same for all who
raise alerts. Writes ``bench/results/latest.json``: ``ratios`` (the median over the rounds of the best local runner's
rate over the peer's, from the first record on), ``ratios_from_start`` (from the start of the job, imports done),
``spread`` (least and most of a round), ``settings`` and ``runs`` (every raw figure); ``python -m bench.plot`` draws it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Consumer, TopicPartition

import schemas
from beam_jobs.codec.avro.decoder import AvroDecoder
from beam_jobs.io.kafka.address import KafkaAddress
from bench import processes
from bench.world import fill, prism_options, score_command, topic, train, weights
from demo.broker import ApacheKafka

RESULTS = Path(__file__).parent / "results" / "latest.json"


@dataclass(frozen=True)
class World:
    """What a run needs to know."""

    servers: str
    source: KafkaAddress
    alerts: KafkaAddress  # a new topic each run
    dead: KafkaAddress
    model: Path
    weights: Path
    records: int
    report: Path


@dataclass(frozen=True)
class Contender:
    """One way to do the job."""

    command: Callable[[World], list[str]]
    settings: str
    alerts: bool = True  # False: it only reads
    passes: int = 1  # over the topic: a warm-up counts for the CPU


def highbeam(runner: str, *more: str) -> Contender:
    """The scoring job as shipped."""

    def command(world: World) -> list[str]:
        flags = ["--runner", runner, *prism_options(runner), "--report", str(world.report), *more]
        return score_command(world.model, world.source, world.alerts, world.dead, *flags)

    return Contender(command, f"--runner={runner} {' '.join(more)}, defaults otherwise")


def peer(module: str, settings: str, *more: str, venv: bool = False, registry: bool = False) -> Contender:
    """A module of bench/peers; ``registry``: it reads the trained model, not its weights as plain numbers."""
    start = ["bench.peers.own_venv", module] if venv else [module]

    def command(world: World) -> list[str]:
        network = world.model if registry else world.weights
        where = [world.servers, world.source.topic, world.alerts.topic, str(network), str(world.records)]
        return [sys.executable, "-m", *start, *where, *more]

    return Contender(command, settings, passes=2 if "--warm" in more else 1)


def reader(module: str, settings: str) -> Contender:
    """A module of bench/peers that only reads."""
    return Contender(
        lambda world: [sys.executable, "-m", module, world.servers, world.source.topic, str(world.records)],
        settings,
        alerts=False,
    )


_STREAMS = "Kafka Streams 4.1, network by hand, {} thread(s), warmed up by a whole pass; see kafka_streams_peer.py"
CONTENDERS: dict[str, Contender] = {
    "highbeam_fn": highbeam("DirectRunner"),
    "highbeam_fn_2": highbeam("DirectRunner", "--direct_num_workers=2"),
    "highbeam_prism": highbeam("PrismRunner"),
    "script": peer("bench.script", "consume(1000), fastavro, Highbeam's compiled network per block", registry=True),
    "raw_tuned": reader("bench.peers.raw", "confluent-kafka consume(1000), tuned fetch, nothing decoded"),
    "librdkafka": reader(
        "bench.peers.librdkafka_peer", "C, the batch call with batches of 10,000, same fetch settings"
    ),
    "kafka_streams_1": peer("bench.peers.kafka_streams_peer", _STREAMS.format(1), "--threads", "1", "--warm"),
    "kafka_streams_2": peer("bench.peers.kafka_streams_peer", _STREAMS.format(2), "--threads", "2", "--warm"),
    "bytewax": peer("bytewax", "Bytewax 0.21 in batches of 1,000; see bytewax.py", venv=True),
    "pyflink": peer("pyflink", "PyFlink 2.1, Table API, vectorised function, two slots; see pyflink.py", venv=True),
    "quix": peer("quix", "Quix Streams 3.28, message by message; see quix.py", venv=True),
    "stock_beam": peer("bench.peers.stock_beam", "Beam's rows, TFModelHandlerNumpy; see stock_beam.py", registry=True),
}
OURS = ("highbeam_fn", "highbeam_fn_2", "highbeam_prism")
# Name of a ratio -> the contenders it is taken over; the fastest of them in each round.
PEERS = {name: (name,) for name in CONTENDERS if name not in OURS and not name.startswith("kafka_streams")} | {
    "kafka_streams": ("kafka_streams_1", "kafka_streams_2")
}


def alert_positions(address: KafkaAddress) -> set[str]:
    """Ids of all alerts on a topic of one partition."""
    schema = schemas.load("alert")
    decoder = AvroDecoder(schema, lambda _: schema, ["id"])
    consumer = Consumer({"bootstrap.servers": address.bootstrap_servers, "group.id": "count"})
    _, end = consumer.get_watermark_offsets(TopicPartition(address.topic, 0), 10)
    consumer.assign([TopicPartition(address.topic, 0, 0)])
    ids: set[str] = set()
    seen = 0
    while seen < end:
        messages = consumer.consume(10_000, 1.0)
        seen += len(messages)
        values = pa.array([m.value() for m in messages], pa.binary())
        ids.update(decoder.decode(values).rows.column("id").to_pylist())
    consumer.close()
    return ids


def once(name: str, world: World) -> tuple[dict[str, Any], set[str]]:
    """Runs a contender over the topic: its figures, and the ids of its alerts.

    Raises:
      CalledProcessError: it failed.
    """
    contender = CONTENDERS[name]
    started = time.time()
    ran = processes.run(contender.command(world))
    wall = time.time() - started
    if name in OURS:
        result = json.loads(world.report.read_text())
        first, start, read = result["reading_seconds"], result["seconds"], result["scored"]
    else:
        result = json.loads(ran.output.splitlines()[-1])
        first, start, read = result["first"], result["start"], result["records"]
    if read != world.records:
        raise RuntimeError(f"{name} read {read} of {world.records} records")
    ids = alert_positions(world.alerts) if contender.alerts else set()
    figures = {
        "contender": name,
        "records_per_second": round(read / first),
        "records_per_second_from_start": round(read / start),
        "cpu_seconds_per_million": round(ran.cpu_seconds / contender.passes / read * 1e6, 2),
        "peak_mb": round(ran.peak_mb),
        "startup_seconds": None if contender.passes > 1 else round(wall - first, 2),  # not reading, from exec to exit
        "alerts": len(ids),
    }
    return figures, ids


def compare(records: int, rounds: int, names: Iterable[str]) -> list[dict[str, Any]]:
    """All raw figures; RuntimeError where the alerts differ."""
    runs: list[dict[str, Any]] = []
    known: set[str] | None = None
    with tempfile.TemporaryDirectory() as folder, ApacheKafka() as broker:
        model, servers = train(Path(folder)), broker.bootstrap_servers
        source = topic(servers, "events", 4)
        fill(source, records)
        numbers = weights(model, Path(folder) / "weights.json")
        for round_ in range(-1, rounds):  # -1: not counted, for the broker's and the compiler's caches
            for name in names if round_ >= 0 else OURS:
                outputs = topic(servers, "alerts"), topic(servers, "dead")
                world = World(servers, source, *outputs, model, numbers, records, Path(folder) / "report.json")
                figures, ids = once(name, world)
                print(json.dumps({"round": round_, **figures}), flush=True)
                if round_ >= 0:
                    runs.append({"round": round_, **figures})
                if CONTENDERS[name].alerts:
                    known = known or ids
                    if ids != known:
                        raise RuntimeError(f"{name} raised other alerts: {len(ids)}, {len(ids ^ known)} of them differ")
    return runs


def ratios(runs: list[dict[str, Any]], figure: str = "records_per_second") -> dict[str, list[float]]:
    """Peer -> per round, the best of ours over the best of its contenders (those that ran)."""
    rate = {(run["round"], run["contender"]): run[figure] for run in runs}
    rounds = sorted({round_ for round_, _ in rate})

    def best(round_: int, names: Iterable[str]) -> float:
        return max((rate[round_, name] for name in names if (round_, name) in rate), default=0.0)

    found = {name: [(best(r, OURS), best(r, theirs)) for r in rounds] for name, theirs in PEERS.items()}
    return {name: [a / b for a, b in pairs] for name, pairs in found.items() if all(b for _, b in pairs)}


def machine() -> str:
    """What it ran on, for the report."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.score", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, by comma; default: all of them")
    args = parser.parse_args()
    names = args.only.split(",")
    unknown = sorted(set(names) - CONTENDERS.keys())
    if unknown:
        parser.error(f"--only {unknown[0]}: there are {', '.join(CONTENDERS)}")
    runs = compare(args.records, args.rounds, names)
    by_peer, from_start = ratios(runs), ratios(runs, "records_per_second_from_start")
    result = {
        "records": args.records,
        "machine": f"{machine()}; broker, job and peers on it together",
        "ratios": {name: round(statistics.median(each), 2) for name, each in by_peer.items()},
        "spread": {name: [round(min(each), 2), round(max(each), 2)] for name, each in by_peer.items()},
        "ratios_from_start": {name: round(statistics.median(each), 2) for name, each in from_start.items()},
        "settings": {name: CONTENDERS[name].settings for name in names},
        "runs": runs,
    }
    print(json.dumps({"ratios": result["ratios"], "spread": result["spread"]}))
    if set(names) >= CONTENDERS.keys():
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
