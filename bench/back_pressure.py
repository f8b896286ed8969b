"""Memory while the sink is slower than the source: a broker quota slows the producer, the job must wait, not hoard.

    python -m bench.back_pressure --records 2000000 --quota 4000000

Every score is written (``--scores``), so that the sink has as much to do as the source. Apache Kafka delays a producer
beyond its quota (bytes a second). Prints rate and memory without and with it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from bench import processes
from bench.world import fill, score_command, topic, train
from demo.broker import ApacheKafka, kafka_jars


def throttle(servers: str, quota: int) -> None:
    """Sets the quota of every producer."""
    entity = ["--alter", "--entity-type", "clients", "--entity-default", "--add-config", f"producer_byte_rate={quota}"]
    tool = ["java", "-cp", f"{kafka_jars()}/*", "kafka.admin.ConfigCommand", "--bootstrap-server", servers]
    subprocess.run([*tool, *entity], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.back_pressure", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--quota", type=int, default=4_000_000, help="bytes a second")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ApacheKafka() as broker:
        servers, report = broker.bootstrap_servers, Path(folder) / "report.json"
        model, source = train(Path(folder)), topic(servers, "events", 4)
        fill(source, args.records)
        for quota in (None, args.quota):
            if quota:
                throttle(servers, quota)
            scores = ["--scores", str(topic(servers, "scores", 4)), "--report", str(report)]
            ran = processes.run(score_command(model, source, topic(servers, "alerts"), topic(servers, "dead"), *scores))
            result = json.loads(report.read_text())
            figures = {
                "quota_bytes_per_second": quota,
                "scored": result["scored"],
                "seconds": result["reading_seconds"],
                "records_per_second": round(result["events_per_second"]),
                "peak_mb": round(ran.peak_mb),
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
