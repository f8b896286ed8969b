"""How fast windows are rebuilt from a topic: read again, decoded and taken in; beside it the reading alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from beam_jobs import metrics
from beam_jobs.io.kafka.client import KafkaTransport
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.windows import HISTORIES, PreprocessWindows, WindowSettings
from beam_jobs.use_case import load_use_case
from bench.windows.contenders import Input


def measured(given: Input, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Records a second, of each round; the step is given the last record of each partition, and rebuilds."""
    log = KafkaLog(KafkaTransport(given.source, KafkaConfig.from_file(None)))
    with log.transport.control() as control:
        bounds = control.bounds(control.topic(10).partitions, 10)
    last = list(log.read({p: (end - 1, end) for p, (_, end) in bounds.items()}))
    found: dict[str, Any] = {"read": [], "rebuild": [], "cpu_us_a_record": [], "records": []}
    for _ in range(rounds):
        begin = time.perf_counter()
        read = sum(raw.num_rows for raw in log.read(bounds))
        found["read"].append(round(read / (time.perf_counter() - begin)))
        before = metrics.STATE.snapshot()[metrics.REREAD]
        decode, step = _steps(given, log)
        begin, cpu = time.perf_counter(), time.process_time()
        for raw in last:
            events, _ = decode.decode(raw)
            if events is not None:
                list(step.process(events))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        again = metrics.STATE.snapshot()[metrics.REREAD] - before
        found["rebuild"].append(round(again / seconds))
        found["cpu_us_a_record"].append(round(cpu / again * 1e6, 2))
        found["records"].append(again)
        HISTORIES.close_all()
        tell(f"rebuild: {again:,} records, {again / seconds:,.0f}/s; read alone {found['read'][-1]:,}/s")
    return found


def _steps(given: Input, log: KafkaLog) -> tuple[DecodeEvents, PreprocessWindows]:
    case = load_use_case(str(given.use_cases.folders["windows"]))
    preprocessor = case.preprocessor()
    decode = DecodeEvents(case.schema, preprocessor.input_columns, lambda _: case.schema, "bench")
    step = PreprocessWindows(preprocessor, "bench", decode, log, WindowSettings("warn"))
    step.setup()
    return decode, step
