"""Takes a sample of events through a use case, before any job: ``highbeam check``.

Exit status 0: nothing, or next to nothing, is refused; 1: more than --max_refused, or no row passes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from beam_jobs.errors import UserError, one_line
from beam_jobs.io.kafka.address import KafkaAddress
from beam_jobs.io.kafka.config import KafkaConfig
from beam_jobs.samples.sample import Checked, Sample, from_files, from_topic
from beam_jobs.terminal.cli import EXIT_FAILED, run
from beam_jobs.terminal.commands import BEGIN
from beam_jobs.terminal.report import time_text
from beam_jobs.use_case import UseCase, load_use_case


def lines_of(checked: Checked, use_case: UseCase, what: str) -> Iterator[str]:
    """What to print of it."""
    span = ""
    if checked.first_ms is not None and checked.last_ms is not None:
        span = f"; {checked.keys:,} keys, {time_text(checked.first_ms)} to {time_text(checked.last_ms)}"
    yield f"looked at   {checked.rows:,} rows of {what}{span}"
    yield f"passed      {checked.passed:,}, {checked.filtered:,} filtered by the WHERE"
    refused = sum(one.count for one in checked.refused)
    yield f"refused     {refused:,}" + (f" ({checked.refused_share:.2%})" if refused else "")
    for one in checked.refused:
        yield f"  {one.count:>9,} {one.stage}, {one.reason}: {one.examples[0]}"
        yield from (f"  {'':>9} {'':>{len(one.stage)}}  {example}" for example in one.examples[1:])
    for phrase in checked.unordered:
        yield f"in windows  {phrase}"
    if not checked.features:
        return
    names = {f.name: f"{f.name}{f' ({f.unit})' if f.unit else ''}" for f in checked.features}
    width = max(8, *map(len, names.values()))
    yield f"{'features':<{width + 2}}{'least':>12}{'mean':>12}{'most':>12}{'spread':>12}"
    for f in checked.features:
        numbers = "".join(f"{number:>12.5g}" for number in (f.least, f.mean, f.most, f.spread))
        yield f"  {names[f.name]:<{width}}{numbers}" + (f"  {f.note}" if f.note else "")
    if use_case.preprocessor().attributes:
        yield f"attributes  {', '.join(use_case.preprocessor().attributes)}"


def main(argv: Sequence[str]) -> int:
    """Parses, looks, and says what came of it."""
    given = BEGIN["check"].parser().parse_args(argv)
    if given.rows < 1:
        raise UserError(f"--rows {given.rows}: expected a number from 1 on")
    if not 0 <= given.max_refused <= 1:
        raise UserError(f"--max_refused {given.max_refused:g}: expected a share, 0 to 1")
    use_case = load_use_case(given.use_case).with_lateness(vars(given))
    use_case.preprocessor().check_secrets()
    sample = Sample(use_case)
    with tempfile.TemporaryDirectory() as scratch:
        if given.input.startswith("kafka://"):
            config = KafkaConfig.from_file(given.kafka_config)
            address = KafkaAddress.parse(given.input)
            parts = from_topic(use_case, address, config, given.schema_registry, given.rows)
        elif given.input.startswith("pubsub://"):
            raise UserError(
                f"--input {given.input}: check reads topics of Kafka and files; archive some, and check those"
            )
        else:
            parts = from_files(use_case, given.input, given.rows, Path(scratch))
        try:
            for part in parts:
                sample.add(part)
        except UserError as error:
            raise UserError(str(error).replace("--data ", "--input ", 1)) from error
    checked = sample.checked()
    if not checked.rows:
        raise UserError(f"--input {given.input}: holds nothing to look at; send or write some events first")
    for line in lines_of(checked, use_case, given.input):
        print(one_line(line))
    return 0 if checked.passed and checked.refused_share <= given.max_refused else EXIT_FAILED


if __name__ == "__main__":
    run(main)
