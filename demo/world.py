"""Starts the demo's parts, lets the fleet drive, and compares what the job says with what the simulator knows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.live import Live

from beam_jobs.errors import UserError
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.client import ensure_topic
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.sandbox.cars import EventProducer, EventSender
from beam_jobs.sandbox.fleet import Fleet
from beam_jobs.sandbox.process import Tansu
from beam_jobs.terminal.cli import STOP_SIGNALS
from demo import past
from demo.alert_watch import AlertWatch
from demo.broker import ApacheKafka
from demo.keep import how_to_go_on
from demo.live import State, render
from demo.past import StoppedError
from demo.referee import Referee, Verdict
from model.registry import resolve
from schemas.registry.server import RegistryServer

_PARTITIONS = 4  # of the events' topic
_READY_SECONDS = 120  # the scoring job compiles and loads the model; minutes on a slow machine
_SPAN_SECONDS = 120.0  # within which the failures happen when the demo has no end
_COMPLAINT_S = 10  # for which what the job says is shown
_DRAIN_SECONDS = 60  # after the last event, for the job to catch up


@dataclass(frozen=True)
class Settings:
    """The demo's command line."""

    cars: int
    rate: float  # events per second, all cars together
    prevalence: float
    bad_rate: float
    seconds: float | None
    seed: int
    training_rows: int
    model: str | None
    keep: str | None  # folder for the use case, the archive and the model; None: they go with the demo
    broker: str
    runner: str
    headless: bool
    report: str | None
    verbose: bool


@dataclass(frozen=True)
class Report:
    """What ``--report`` writes."""

    produced: int
    scored: int
    filtered: int
    dead_letters: int
    alerts: int
    precision: float | None
    recall: float | None
    recall_by_kind: dict[str, float]
    failed_cars: int
    latency_ms: dict[str, float | None]  # p50, p99 of the slowest record of each block
    events_per_second: float  # read by the job, over the time it read
    unaccounted: int  # produced but neither scored nor filtered nor a dead letter; 0


def run_demo(settings: Settings) -> int:
    """Runs the whole demo; returns the exit status."""
    console = Console()
    stop = threading.Event()
    with ExitStack() as stack:
        stack.enter_context(_stop_on_signal(stop))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="highbeam-demo-")))
        servers = stack.enter_context(_broker(settings.broker, folder, console))
        registry = stack.enter_context(RegistryServer(folder / "schemas"))
        console.print(f"schema registry at {registry.url}")
        topics = _topics(servers)
        try:
            work = Path(settings.keep) if settings.keep else folder
            model = settings.model or _train(settings, topics, registry.url, work, stop, console)
        except StoppedError:
            console.print("stopped")
            return 0
        _say(console, "score", "live: what is strange about an event, as it comes in")
        job = stack.enter_context(_ScoreJob(settings, topics, registry.url, model, folder, console))
        if not job.wait_until_reading(stop):
            return job.failed()
        described = resolve(model, "car_sensors").manifest
        fleet = Fleet(
            settings.cars,
            seed=settings.seed,
            prevalence=settings.prevalence,
            start_time=int(time.time() * 1000),
            interval=settings.cars / settings.rate,
            span=settings.seconds or _SPAN_SECONDS,
        )
        producer = EventProducer(EventSender(topics["events"], registry.url, settings.bad_rate, settings.seed), fleet)
        title = f"Highbeam: {settings.cars:,} cars, {settings.rate:,.0f} events/s, {described.version}"
        state = State(title, described.threshold, hint=f"All alerts: highbeam watch {topics['alerts']}")
        referee = Referee(fleet.failures)
        watch = stack.enter_context(AlertWatch(topics["alerts"], topics["scores"], registry.url, state, referee))
        producer.start()
        _drive(settings, producer, job, state, referee, stop, console)
        producer.stop()
        drained = job.wait_until_read(producer.produced)
        summary = job.finish()
        watch.wait_for(summary["alerts"])
        report = _report(producer.produced, summary, referee.verdict(producer.now_ms))
    _show(report, settings, console)
    if settings.keep:
        console.print(how_to_go_on(Path(settings.keep)), highlight=False, soft_wrap=True, markup=False)
    return 0 if drained and not report.unaccounted else 1


def _train(
    settings: Settings,
    topics: dict[str, KafkaAddress],
    registry_url: str,
    folder: Path,
    stop: threading.Event,
    console: Console,
) -> str:
    """From a past on the topic to a model; returns the registry folder."""
    events, data, models = topics["events"], folder / "archive", folder / "models"
    _say(console, "send", f"{settings.training_rows:,} events another fleet has sent just now, to {events.topic}")
    sender = EventSender(events, registry_url, settings.bad_rate, settings.seed + 1)
    past.send(sender, settings.training_rows, settings.seed + 1, _PARTITIONS, stop, console)
    _say(console, "archive", "them as features: files by event time, nothing personal in them")
    past.archive(events, data, topics["dead_letters"], registry_url, settings.verbose, stop, console)
    _say(console, "train", "an autoencoder on the archive: what is normal, and how strange may be")
    past.train(data, models, stop, console)
    return str(models)


def _say(console: Console, step: str, what: str) -> None:
    console.print(f"\n[bold]{step}[/bold] {what}", highlight=False, soft_wrap=True)


def _drive(
    settings: Settings,
    producer: EventProducer,
    job: _ScoreJob,
    state: State,
    referee: Referee,
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
        while time.monotonic() < ends and not stop.wait(1.0):
            second += 1
            if producer.error:
                raise producer.error
            if job.ended:
                raise UserError(job.last_words())
            state.produced = producer.produced
            state.verdict = referee.verdict(producer.now_ms)
            if job.progress and job.progress is not state.progress:
                state.add_progress(job.progress)
            state.trouble = job.complaint()
            if live:
                live.update(render(state, *console.size), refresh=True)
            elif second % 10 == 0:
                p99 = state.progress.get("latency_ms_p99")
                console.print(
                    f"{second} s: produced {state.produced:,}, scored {state.progress.get('scored', 0):,}, "
                    f"alerts {state.progress.get('alerts', 0):,}" + (f", latency p99 {p99:,.0f} ms" if p99 else "")
                )


class _ScoreJob:
    """The scoring job, as a user would start it: ``python -m beam_jobs.score`` in a process of its own."""

    def __init__(
        self,
        settings: Settings,
        topics: dict[str, KafkaAddress],
        registry_url: str,
        model: str,
        folder: Path,
        console: Console,
    ) -> None:
        self._report = folder / "summary.json"
        self._console = console
        self._verbose = settings.verbose
        self._command = [
            *(sys.executable, "-m", "beam_jobs.score", "--use_case", "car_sensors"),
            *("--input", str(topics["events"]), "--from", "latest", "--model", model),
            *("--alerts", str(topics["alerts"]), "--scores", str(topics["scores"])),
            *("--dead_letters", str(topics["dead_letters"]), "--schema_registry", registry_url),
            *("--progress", "json", "--report", str(self._report), "--runner", settings.runner),
            *(["--verbose"] if settings.verbose else []),
        ]
        self.progress: dict[str, Any] = {}
        self._words: list[str] = []
        self._said_at = 0.0  # monotonic clock, when the last of them came

    def __enter__(self) -> _ScoreJob:
        past.show_command(self._command, self._console)
        # A session of its own: Ctrl-C reaches the demo alone, which ends the job after its last event.
        self._process = subprocess.Popen(
            self._command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=past.environment(),
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._reader.join(5)

    def _listen(self, stream: IO[str]) -> None:
        for line in stream:
            if line.startswith("{"):
                self.progress = json.loads(line)
            else:
                self._words.append(line.rstrip())
                self._said_at = time.monotonic()
                del self._words[:-50]
                if self._verbose:
                    print(line, end="", file=sys.stderr)

    def complaint(self) -> str:
        """What the job has warned of in the last seconds."""
        recent = self._words[-1:] if time.monotonic() - self._said_at < _COMPLAINT_S else []
        return "".join(word for word in recent if word.startswith(("WARNING ", "ERROR ", "CRITICAL ")))

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def last_words(self) -> str:
        """What the job said last: its error line, if it had one."""
        self._reader.join(5)
        errors = [line for line in self._words if line.startswith("error: ")]
        text = errors[-1].removeprefix("error: ") if errors else " ".join(self._words[-3:])
        return f"the scoring job ended with status {self._process.returncode}: {text}"

    def failed(self) -> int:
        """The exit status when the job never came to read: 0 after Ctrl-C, otherwise an error."""
        if self.ended:
            raise UserError(self.last_words())
        return 0

    def wait_until_reading(self, stop: threading.Event) -> bool:
        """Waits until the job has a consumer and its model; False after Ctrl-C or the end of the job."""
        deadline = time.monotonic() + _READY_SECONDS
        with self._console.status("loading the model into the scoring job"):
            while not self.ended and not stop.wait(0.1):
                if self.progress.get("readers"):
                    return True
                if time.monotonic() > deadline:
                    raise UserError(f"the scoring job is not reading after {_READY_SECONDS} s; --verbose shows its log")
        return False

    def wait_until_read(self, produced: int) -> bool:
        """Waits until the job has handled every event; False when it does not catch up."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        tick = threading.Event()
        while not self.ended and time.monotonic() < deadline:
            if self.progress.get("read", 0) >= produced:
                return True
            tick.wait(0.1)
        return False

    def finish(self) -> dict[str, Any]:
        """Ends the job as Ctrl-C would, and returns its summary."""
        if not self.ended:
            self._process.send_signal(signal.SIGINT)
        try:
            status = self._process.wait(_DRAIN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the scoring job did not end within {_DRAIN_SECONDS} s of Ctrl-C") from error
        if status or not self._report.exists():
            raise UserError(self.last_words())
        summary: dict[str, Any] = json.loads(self._report.read_text(encoding="utf-8"))
        return summary


def _topics(servers: str) -> dict[str, KafkaAddress]:
    """Creates the demo's topics, new ones for every run."""
    run = f"{int(time.time())}-{os.getpid()}"
    names = {"events": "sensor-data", "alerts": "alerts", "scores": "scores", "dead_letters": "dead-letters"}
    topics = {key: KafkaAddress.parse(f"kafka://{servers}/{name}-{run}") for key, name in names.items()}
    for key, address in topics.items():
        ensure_topic(address, KafkaConfig.from_file(None), partitions=_PARTITIONS if key == "events" else 1)
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


def _report(produced: int, summary: dict[str, Any], verdict: Verdict) -> Report:
    return Report(
        produced=produced,
        scored=summary["scored"],
        filtered=summary["filtered"],
        dead_letters=summary["dead_letters"],
        alerts=summary["alerts"],
        precision=verdict.precision,
        recall=verdict.recall,
        recall_by_kind=verdict.recall_by_kind,
        failed_cars=verdict.failed_cars,
        latency_ms=summary["latency_ms"],
        events_per_second=summary["events_per_second"],
        unaccounted=produced - summary["scored"] - summary["filtered"] - summary["dead_letters"],
    )


def _show(report: Report, settings: Settings, console: Console) -> None:
    text = json.dumps(asdict(report), indent=2)
    if settings.report:  # first: the terminal may be gone
        try:
            Path(settings.report).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--report {settings.report}: {error.strerror}") from error
    console.print_json(text)
