import inspect

import apache_beam as beam
from apache_beam.io.unbounded_source import ReadFromUnboundedSource, UnboundedCountingSource
from apache_beam.metrics import Metrics
from apache_beam.runners.portability.fn_api_runner import fn_runner

from beam_jobs.running.fn_api import LocalRunner


def count(element: object) -> object:
    Metrics.counter("test", "seen").inc()
    return element


def test_metrics_are_right_and_do_not_pile_up() -> None:
    before = fn_runner.consolidate_monitoring_infos
    p = beam.Pipeline(runner=LocalRunner())
    source = UnboundedCountingSource(300)
    _ = p | ReadFromUnboundedSource(source, max_records_per_bundle=1) | beam.Map(count)
    result = p.run()
    counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    assert counters["seen"] == 300
    held = list(result._monitoring_infos_by_stage.values())
    assert not any(inspect.isgenerator(infos) for infos in held)  # each would hold the bundles before it
    assert max(len(infos) for infos in held) < 100  # of 300 bundles
    assert fn_runner.consolidate_monitoring_infos is before
