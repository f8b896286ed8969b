"""How fast windows are rebuilt from a topic: read again, decoded and taken in; beside it the reading alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from beam_jobs import metrics
from beam_jobs.block import stretch_of
from beam_jobs.io.kafka.client import KafkaTransport
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.io.kafka.topic import KafkaLog
from beam_jobs.steps.decode import DecodeEvents
from beam_jobs.steps.windows import HISTORIES, PreprocessWindows, WindowSettings
from beam_jobs.storage.snapshots import writer
from beam_jobs.use_case import load_use_case
from bench.windows.contenders import Input

Span = tuple[int, int]
_FROM_THE_LOG = WindowSettings("warn")


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
        decode, step = _steps(given, log, _FROM_THE_LOG)
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


def hour(given: Input, since: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """A start at the end of a topic: seconds until the first row has its windows, from the log and from snapshots.

    Args:
      since: records that came after the snapshots.
    """
    log = KafkaLog(KafkaTransport(given.source, KafkaConfig.from_file(None)))
    with log.transport.control() as control:
        topic = control.topic(10)
        bounds = control.bounds(topic.partitions, 10)
    last = {p: (end - 1, end) for p, (_, end) in bounds.items()}
    found: dict[str, Any] = {"records": given.records, "since_the_snapshot": since}
    found["seconds"] = _until_first(given, log, topic.id, _FROM_THE_LOG, [last])
    tell(f"rebuild: {given.records:,} records in {found['seconds']} s")
    folder = given.folder / "snapshots"
    snapshots = WindowSettings("warn", snapshots=str(folder), snapshot_s=1e-9)
    then = [{p: (end - 1 - since // len(bounds), end - since // len(bounds))} for p, (_, end) in bounds.items()]
    _until_first(given, log, topic.id, snapshots, then)
    found["snapshot_mb"] = round(sum(path.stat().st_size for path in folder.rglob("*.npz")) / 1e6)
    found["seconds_with_snapshots"] = _until_first(given, log, topic.id, replace(snapshots, snapshot_s=1e9), [last])
    tell(f"rebuild: from snapshots of {found['snapshot_mb']} MB in {found['seconds_with_snapshots']} s")
    return found


def _until_first(
    given: Input, log: KafkaLog, topic_id: str, settings: WindowSettings, spans: Sequence[Mapping[int, Span]]
) -> float:
    """Seconds in which a new step gives the records of each of the spans their windows."""
    decode, step = _steps(given, log, settings)
    begin = time.perf_counter()
    for each in spans:
        for raw in log.read(each):
            stretch = stretch_of(raw)
            assert stretch is not None
            events, _ = decode.decode(replace(stretch, topic_id=topic_id).on(raw))  # as the source has it
            if events is not None:
                list(step.process(events))
            writer().wait()
    seconds = time.perf_counter() - begin
    HISTORIES.close_all()
    return round(seconds, 2)


def _steps(given: Input, log: KafkaLog, settings: WindowSettings) -> tuple[DecodeEvents, PreprocessWindows]:
    case = load_use_case(str(given.use_cases.folders["windows"]))
    preprocessor = case.preprocessor()
    decode = DecodeEvents(case.schema, preprocessor.input_columns, lambda _: case.schema, "bench")
    step = PreprocessWindows(preprocessor, "bench", decode, log, settings)
    step.setup()
    return decode, step
