"""From options to a job that has run: on a target of another distribution, and on the one that a graph needs."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.io.unbounded_source import ReadFromUnboundedSource, UnboundedCountingSource
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows

from beam_jobs import metrics
from beam_jobs.errors import UserError
from beam_jobs.running import launch
from beam_jobs.running.workers import Workers
from beam_jobs.target import TARGETS, target_of
from beam_jobs.terminal import options
from beam_jobs.terminal.cli import STOP_SIGNALS
from beam_jobs.terminal.commands import JOBS
from beam_jobs.terminal.report import conclude
from tests.distribution import install

ACME = '''
import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from beam_jobs.errors import UserError
from beam_jobs.target import Traits


class AcmeTarget:
    """Runs a job by Beam's own runner, and says so."""

    def __init__(self, parsed):
        self._parsed = parsed

    def check(self):
        if not self._parsed.get_all_options()["job_name"]:
            raise UserError("--job_name is missing; acme needs one")

    def describe(self):
        return Traits(here=False)

    def prepare(self, name, live):
        print("prepared", name)
        return FnApiRunner()

    def cannot(self, graph):
        return "acme keeps no state" if graph.state else ""

    def submit(self, pipeline, graph):
        print("submitted")
        return pipeline.run()

    def wait(self, result):
        print("ended", result.wait_until_finish())
        return 7
'''


def run(parsed: PipelineOptions, wire: Callable[[beam.Pipeline], object], live: bool = False) -> int:
    def conclude() -> int:
        return 0

    with launch.begin(parsed) as workers:
        wires = [wire] * workers.count
        return launch.run_job(parsed, wires, "score/cars", live, conclude, workers)


def parse(*words: str) -> PipelineOptions:
    return options.parse(JOBS["score"].parser(), words)


def write_lines(pipeline: beam.Pipeline, folder: Path) -> None:
    pipeline | beam.Create(["a", "b"]) | beam.Map(lambda name: (folder / name).write_text(name))


def count_by_key(pipeline: beam.Pipeline) -> None:
    pipeline | beam.Create([("a", 1), ("a", 2)]) | beam.GroupByKey()


@pytest.fixture
def _acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets = {"highbeam.targets": {"AcmeRunner": "acme_target:AcmeTarget"}}
    monkeypatch.syspath_prepend(install(tmp_path / "site", "acme_target", ACME, targets))


@pytest.mark.usefixtures("_acme")
def test_a_target_of_another_distribution_runs_a_job(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "AcmeRunner" in TARGETS.names()
    with pytest.raises(UserError, match="acme needs one"):
        run(parse("--runner=acme"), count_by_key)
    named = parse("--runner=acme", "--job_name=x")
    assert not target_of(named).describe().here
    assert run(named, partial(write_lines, folder=tmp_path)) == 7
    assert capfd.readouterr().out.splitlines() == ["prepared score/cars", "submitted", "ended DONE"]
    assert (tmp_path / "b").read_text() == "b"
    with pytest.raises(UserError, match=r"^--runner=acme: acme keeps no state; leave it out, or take --runner=Prism"):
        run(named, count_by_key)
    with pytest.raises(UserError, match="AcmeRunner where it says"):
        target_of(parse("--runner=nobody"))


def test_state_by_key_is_for_one_process() -> None:
    with pytest.raises(UserError, match="--direct_num_workers=2: a step keeps state by key"):
        run(parse("--direct_num_workers=2"), count_by_key)


def _read_and_fail(pipeline: beam.Pipeline) -> None:
    def counted(n: int) -> int:
        metrics.inc(metrics.RECORDS_READ, 5)
        metrics.inc(metrics.RECORDS_SCORED, 5)
        return n

    def refuse(n: int) -> None:
        raise UserError("the topic takes no record of 300 bytes")

    pipeline | beam.Create([1]) | beam.Map(counted) | beam.Map(refuse)


def test_what_an_error_ends_is_not_said_to_be_accounted_for(capsys: pytest.CaptureFixture[str]) -> None:
    """An output that refuses its records comes after they were counted."""
    parsed = parse()
    with launch.begin(parsed) as workers, pytest.raises(Exception, match="takes no record of 300 bytes"):
        launch.run_job(parsed, [_read_and_fail], "score/cars", False, partial(conclude, False, None, False), workers)
    out = capsys.readouterr().out
    assert "accounted for" not in out
    assert "ended before all it has counted was written" in out


def windows(pipeline: beam.Pipeline, folder: Path) -> None:
    """Windows of an input that Beam knows no end of."""
    (
        pipeline
        | ReadFromUnboundedSource(UnboundedCountingSource(10))
        | beam.Map(lambda n: ("a", n)).with_output_types(tuple[str, int])
        | beam.WindowInto(FixedWindows(60))
        | beam.GroupByKey()
        | beam.Map(lambda group: (folder / "sum").write_text(str(sum(group[1]))))
    )


def test_a_live_job_with_windows_is_refused_where_they_never_fire(tmp_path: Path) -> None:
    wanted = r"^--runner=direct: windows of an input without an end never fire there; leave it out, or take .*Prism"
    with pytest.raises(UserError, match=wanted):
        run(parse("--runner=direct"), partial(windows, folder=tmp_path), live=True)


@pytest.mark.integration
def test_and_runs_on_prism_where_no_runner_is_named(
    tmp_path: Path, prism_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.excepthook", threading.excepthook)  # put back afterwards
    parsed = parse(f"--prism_location={prism_binary}")
    assert run(parsed, partial(windows, folder=tmp_path), live=True) == 0
    assert (tmp_path / "sum").read_text() == "45"
    assert parsed.get_all_options()["runner"] == "PrismRunner"


TWICE = """
import os, signal
from beam_jobs import stop
from beam_jobs.running.launch import drain_on_signal
from beam_jobs.running.workers import Workers

with Workers(1) as workers, drain_on_signal(workers):
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop.requested(), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)  # a supervisor that is impatient changes nothing
    os.kill(os.getpid(), signal.SIGINT)
    print("never")
"""


def test_a_stop_signal_drains_and_ctrl_c_after_it_ends_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "True\n"), done.stderr
    assert done.stderr == "stopping: finishing what was read (Ctrl-C again to stop at once)\n" * 2


def test_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with Workers(1) as workers, launch.drain_on_signal(workers) as arm:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a runner does
        arm()
        assert callable(signal.getsignal(signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
