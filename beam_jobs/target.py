"""Where jobs run: what a target is, what is to be known of one, and the one that a command line names.

A target stands behind one or more names of ``--runner``, as Beam takes them. Highbeam's own are in ``running/``; others
are entry points of the group ``highbeam.targets``, named after their runner:

    [project.entry-points."highbeam.targets"]
    AcmeRunner = "acme.target:AcmeTarget"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import apache_beam as beam
from apache_beam.io.unbounded_source import ReadFromUnboundedSource
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.pipeline import AppliedPTransform, PipelineVisitor
from apache_beam.pvalue import PCollection, PValue
from apache_beam.runners.runner import PipelineResult, PipelineRunner
from apache_beam.transforms.core import GroupByKey, ParDo
from apache_beam.transforms.userstate import is_stateful_dofn
from apache_beam.transforms.util import ReshufflePerKey
from apache_beam.transforms.window import GlobalWindows

from beam_jobs.errors import UserError
from beam_jobs.plugins import Plugins


@dataclass(frozen=True)
class Traits:
    """What jobs and transforms have to know of a target."""

    here: bool = True  # the job runs while this process does, and sees this machine's files; else it is handed over
    processes: int = 1  # of this machine, that share the input
    java: bool = False  # it runs Java transforms
    reads_pubsub: bool = False  # it reads and writes Pub/Sub itself, by Beam's own transforms
    readers: int = 1  # that share a topic, at most
    stores_bundles: bool = False  # it stores a checkpoint for each bundle, which costs more than a block
    own_image: bool = False  # workers run an image of the user's, which may have what Beam's does not
    at_least_once: str = ""  # the option by which it was allowed to repeat what it has done; "": it was not


@dataclass(frozen=True)
class Graph:
    """The properties of a wired pipeline that decide where it can run; its transforms declare them, as Beam has it."""

    bounded: bool  # Beam knows of an end of every input; ends of our own sources (--until) it does not know
    state: bool  # a step keeps state by key, or groups by key
    windows: bool  # a collection is cut into windows
    own_source: bool  # it reads by a source of ours: each reader keeps a connection

    @staticmethod
    def of(pipeline: beam.Pipeline) -> Graph:
        """The properties of ``pipeline``."""
        look = _Look()
        pipeline.visit(look)
        return Graph(look.bounded, look.state, look.windows, look.own_source)


class _Look(PipelineVisitor):
    def __init__(self) -> None:
        self.bounded = True
        self.state = self.windows = self.own_source = False
        self._in_reshuffle = 0  # it groups, and ungroups again: no step after it sees a key's records together

    def enter_composite_transform(self, node: AppliedPTransform) -> None:
        self.own_source |= isinstance(node.transform, ReadFromUnboundedSource)
        self._in_reshuffle += isinstance(node.transform, ReshufflePerKey)

    def leave_composite_transform(self, node: AppliedPTransform) -> None:
        self._in_reshuffle -= isinstance(node.transform, ReshufflePerKey)

    def visit_transform(self, node: AppliedPTransform) -> None:
        step = node.transform
        if isinstance(step, GroupByKey) or (isinstance(step, ParDo) and is_stateful_dofn(step.fn)):
            self.state |= not self._in_reshuffle

    def visit_value(self, value: PValue, producer_node: AppliedPTransform) -> None:
        if isinstance(value, PCollection):
            self.bounded &= value.is_bounded
            self.windows |= not isinstance(value.windowing.windowfn, GlobalWindows)


class Target(Protocol):
    """One job's way to a runner of Beam's: made of the parsed options, then called in this order."""

    def check(self) -> None:
        """Checks what is needed to run there, before the job itself is looked at.

        Raises:
          UserError: the first thing that is missing or wrong, with its remedy.
        """

    def describe(self) -> Traits:
        """What is to be known of it; asked again and again."""

    def prepare(self, name: str, live: bool) -> str | PipelineRunner:
        """Sets the options, and what in this process has to be set before there is a pipeline.

        Args:
          name: of the job, "score/car_sensors".
          live: it runs until it is stopped.

        Returns:
          The runner the pipeline is made for: its name in Beam, or an object.
        """

    def cannot(self, graph: Graph) -> str:
        """Why such a graph can't run there; "": it can."""

    def submit(self, pipeline: beam.Pipeline, graph: Graph) -> PipelineResult:
        """Starts the job; one that runs in this process may have ended when it returns.

        Raises:
          UserError: the runner refuses it, or is gone.
        """

    def wait(self, result: PipelineResult) -> int:
        """Waits for the end of the job, where it is to be waited for.

        Returns:
          The exit status, as far as the runner knows.

        Raises:
          UserError: the runner is gone.
        """


_OWN = dict.fromkeys(StandardOptions.KNOWN_RUNNER_NAMES, "beam_jobs.running.portable:Portable") | {
    "DirectRunner": "beam_jobs.running.local:Local",
    "FnApiRunner": "beam_jobs.running.local:Local",
    "PrismRunner": "beam_jobs.running.prism:Prism",
    "FlinkRunner": "beam_jobs.running.flink:Flink",
    "DataflowRunner": "beam_jobs.running.dataflow.target:Dataflow",
    "TestDataflowRunner": "beam_jobs.running.dataflow.target:Dataflow",
}
TARGETS = Plugins[Callable[[PipelineOptions], Target]]("target", "highbeam.targets", _OWN)


def runner_of(parsed: PipelineOptions) -> str:
    """The name of the runner that is asked for, as Beam writes it; without one it is the local one.

    Beam takes "direct" and "directrunner" for DirectRunner. A dotted name is a class of the user's.

    Raises:
      UserError: there is no such runner.
    """
    name = str(parsed.view_as(StandardOptions).runner or "DirectRunner")
    if "." in name:
        return name
    # Own names first: for the others all that is installed has to be looked through.
    found = _among(_OWN, name) or _among(TARGETS.names(), name)
    if found is None:
        others = "".join(f", {each} where it says" for each in TARGETS.names() if each not in _OWN)
        raise UserError(
            f"--runner {name}: Beam has no such runner; DirectRunner, FnApiRunner, PrismRunner run here, "
            f"DataflowRunner on Google Cloud{others}"
        )
    return found


def _among(runners: Iterable[str], name: str) -> str | None:
    known = {each.lower(): each for each in runners}
    return known.get(name.lower()) or known.get(f"{name.lower()}runner")


def target_of(parsed: PipelineOptions) -> Target:
    """The target of the runner that is asked for.

    Raises:
      UserError: there is no such runner, or its target can't be loaded.
    """
    name = runner_of(parsed)
    if "." in name:
        name = "DataflowRunner" if "dataflow" in name.lower() else "PortableRunner"
    return TARGETS.get(name)(parsed)
