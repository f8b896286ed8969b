"""Runners by name, the targets behind them, and what a graph says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.io.unbounded_source import ReadFromUnboundedSource, UnboundedCountingSource
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import FixedWindows

from beam_jobs.errors import UserError
from beam_jobs.target import Graph, Traits, runner_of, target_of

HERE = Traits()
ELSEWHERE = Traits(here=False, java=True, reads_pubsub=True, readers=32, stores_bundles=True)


@pytest.mark.parametrize(
    ("flags", "name", "traits"),
    [
        ([], "DirectRunner", HERE),
        (["--runner=direct"], "DirectRunner", HERE),
        (["--runner=fnapirunner", "--direct_num_workers=2"], "FnApiRunner", Traits(processes=2)),
        (["--runner=prismrunner"], "PrismRunner", HERE),
        (["--runner=flink"], "FlinkRunner", Traits(java=True)),
        (["--runner=dataflow"], "DataflowRunner", ELSEWHERE),
        (["--runner=dataflow", "--sdk_container_image=x"], "DataflowRunner", replace(ELSEWHERE, own_image=True)),
        (["--runner=my.own.Runner"], "my.own.Runner", Traits(java=True)),
        (["--runner=my.DataflowRunner"], "my.DataflowRunner", ELSEWHERE),
    ],
)
def test_names_as_beam_takes_them(flags: list[str], name: str, traits: Traits) -> None:
    options = PipelineOptions(flags)
    assert runner_of(options) == name
    assert target_of(options).describe() == traits


def test_a_runner_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"^--runner Dirct: Beam has no such runner; DirectRunner, .*"):
        runner_of(PipelineOptions(["--runner=Dirct"]))


def test_runners_that_run_here_need_nothing() -> None:
    target_of(PipelineOptions(["--runner=PrismRunner"])).check()
    target_of(PipelineOptions([])).check()


class Count(beam.DoFn):
    SEEN = ReadModifyWriteStateSpec("seen", VarIntCoder())

    def process(
        self,
        pair: tuple[str, int],
        seen: beam.DoFn.StateParam = beam.DoFn.StateParam(SEEN),  # noqa: B008
    ) -> Iterator[int]:
        yield seen.read() or 0


def pairs(pipeline: beam.Pipeline) -> beam.PCollection[tuple[str, int]]:
    return pipeline | beam.Create([("a", 1)])


def test_a_graph_says_what_it_needs() -> None:
    plain = Graph(bounded=True, state=False, windows=False, own_source=False)
    assert Graph.of(beam.Pipeline()) == plain
    pipeline = beam.Pipeline()
    pairs(pipeline) | beam.Reshuffle()
    assert Graph.of(pipeline) == plain  # no step sees the records of a key together
    pipeline = beam.Pipeline()
    pairs(pipeline) | beam.ParDo(Count())
    assert Graph.of(pipeline) == replace(plain, state=True)
    pipeline = beam.Pipeline()
    pairs(pipeline) | beam.GroupByKey()
    assert Graph.of(pipeline) == replace(plain, state=True)
    pipeline = beam.Pipeline()
    pairs(pipeline) | beam.WindowInto(FixedWindows(60))
    assert Graph.of(pipeline) == replace(plain, windows=True)
    pipeline = beam.Pipeline()
    pipeline | ReadFromUnboundedSource(UnboundedCountingSource(1))
    assert Graph.of(pipeline) == replace(plain, bounded=False, own_source=True)
