"""Starts the demo's parts, lets the world go on, and compares what the job says with what the simulator knows."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.sandbox.process import Tansu
from beam_jobs.terminal.cli import STOP_SIGNALS
from demo import past
from demo.alert_watch import AlertWatch
from demo.broker import ApacheKafka
from demo.cars import Cars
from demo.fraud.scenario import Payments
from demo.keep import how_to_go_on
from demo.live import State, render
from demo.past import StoppedError
from demo.scenario import PARTITIONS, Scenario, Settings, Source
from demo.scoring import ScoreJob
from model.registry import resolve
from schemas.registry.server import RegistryServer

SCENARIOS: Mapping[str, Callable[[Settings], Scenario]] = {"car_sensors": Cars, "payment_fraud": Payments}


def run_demo(settings: Settings) -> int:
    """Runs the whole demo; returns the exit status."""
    console = Console()
    stop = threading.Event()
    scenario = SCENARIOS[settings.use_case](settings)
    with ExitStack() as stack:
        stack.enter_context(_stop_on_signal(stop))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="highbeam-demo-")))
        servers = stack.enter_context(_broker(settings.broker, folder, console))
        registry = stack.enter_context(RegistryServer(folder / "schemas"))
        console.print(f"schema registry at {registry.url}")
        topics = _topics(servers, scenario.topic)
        events = topics["events"]
        try:
            work = Path(settings.keep) if settings.keep else folder
            model = settings.model or _train(settings, scenario, topics, registry.url, work, stop, console)
        except StoppedError:
            console.print("stopped")
            return 0
        _say(console, "score", scenario.said["score"])
        more = scenario.job_options(events, "score")
        job = stack.enter_context(ScoreJob(settings, topics, more, registry.url, model, folder, console))
        if not job.wait_until_reading(stop):
            return job.failed()
        described = resolve(model, settings.use_case).manifest
        source = scenario.source(events, registry.url)
        hint = f"All alerts: highbeam watch {topics['alerts']}"
        state = State(scenario.title(described.version), described.threshold, hint=hint, words=scenario.words)
        watch = stack.enter_context(AlertWatch(topics, registry.url, state, scenario))
        source.start()
        _drive(settings, scenario, source, job, state, stop, console)
        source.stop()
        drained = job.wait_until(scenario.all_seen)
        summary = job.finish()
        watch.wait_for(summary["alerts"])
        outcome = scenario.outcome(summary)
    _show(outcome.report, settings, console)
    scenario.show_end(console)
    if settings.keep:
        said = how_to_go_on(Path(settings.keep), settings.use_case)
        console.print(said, highlight=False, soft_wrap=True, markup=False)
    return 0 if drained and outcome.accounted else 1


def _train(
    settings: Settings,
    scenario: Scenario,
    topics: dict[str, KafkaAddress],
    registry_url: str,
    folder: Path,
    stop: threading.Event,
    console: Console,
) -> str:
    """From a past on the topic to a model; returns the registry folder."""
    events, models = topics["events"], folder / "models"
    work = past.Work(settings.use_case, folder / "archive", settings.verbose, stop, console)
    _say(console, "send", f"{scenario.said['send']} {events.topic}")
    scenario.send_past(events, registry_url, stop, console)
    _say(console, "archive", scenario.said["archive"])
    more = scenario.job_options(events, "archive")
    scenario.check_archived(past.archive(work, events, topics["dead_letters"], registry_url, more))
    _say(console, "train", scenario.said["train"])
    past.train(work, models, scenario.train_options)
    return str(models)


def _say(console: Console, step: str, what: str) -> None:
    console.print(f"\n[bold]{step}[/bold] {what}", highlight=False, soft_wrap=True)


def _drive(
    settings: Settings,
    scenario: Scenario,
    source: Source,
    job: ScoreJob,
    state: State,
    stop: threading.Event,
    console: Console,
) -> None:
    """Shows the live view, or a line every ten seconds, until the time is over, Ctrl-C, or the end of the job."""
    ends = time.monotonic() + settings.seconds if settings.seconds else float("inf")
    with ExitStack() as stack:
        live = (
            None if settings.headless else stack.enter_context(Live(console=console, auto_refresh=False, screen=True))
        )
        second = 0
        shown = job.progress
        while time.monotonic() < ends and not source.over and not stop.wait(1.0):
            second += 1
            if source.error:
                raise source.error
            if job.ended:
                raise UserError(job.last_words())
            state.produced = source.produced
            state.verdict = scenario.verdict()
            if job.progress and job.progress is not shown:
                shown = job.progress
                state.add_progress(scenario.progress(shown))
            state.story = scenario.story()
            state.trouble = job.complaint()
            if live:
                live.update(render(state, *console.size), refresh=True)
            elif second % 10 == 0:
                p99 = state.progress.get("latency_ms_p99")
                console.print(
                    f"{second} s: produced {state.produced:,}, scored {state.progress.get('scored', 0):,}, "
                    f"alerts {state.progress.get('alerts', 0):,}" + (f", latency p99 {p99:,.0f} ms" if p99 else "")
                )


def _topics(servers: str, of_events: str) -> dict[str, KafkaAddress]:
    """Creates the demo's topics, new ones for every run."""
    run = f"{int(time.time())}-{os.getpid()}"
    names = {"events": of_events, "alerts": "alerts", "scores": "scores", "dead_letters": "dead-letters"}
    topics = {key: KafkaAddress.parse(f"kafka://{servers}/{name}-{run}") for key, name in names.items()}
    for key, address in topics.items():
        kept = {"retention.ms": "-1"}  # simulated events may be older than the broker keeps any
        ensure_topic(address, KafkaConfig.from_file(None), PARTITIONS if key == "events" else 1, kept)
    return topics


@contextmanager
def _broker(which: str, folder: Path, console: Console) -> Iterator[str]:
    """The bootstrap servers of the broker asked for, started where it is ours to start."""
    if which.startswith("kafka://"):
        yield which.removeprefix("kafka://").rstrip("/")
        return
    kinds = {"embedded": Tansu, "apache": ApacheKafka}
    if which not in kinds:
        raise UserError(f"--broker {which}: expected embedded, apache or kafka://host:9092")
    with console.status(f"starting the {which} broker"), ExitStack() as stack:
        broker = stack.enter_context(kinds[which]())
        stack_of_broker = stack.pop_all()
    with stack_of_broker:
        console.print(f"broker ({which}) at {broker.bootstrap_servers}")
        yield broker.bootstrap_servers


@contextmanager
def _stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C ends the demo in order; a second one at once."""

    def handle(signum: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(report: Mapping[str, Any], settings: Settings, console: Console) -> None:
    text = json.dumps(report, indent=2)
    if settings.report:  # first: the terminal may be gone
        try:
            Path(settings.report).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--report {settings.report}: {error.strerror}") from error
    console.print_json(text)
