"""Plays one scenario, and says what came of it."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, field
from random import Random

from chaos.ledger import Verdict
from chaos.scenarios import Scenario
from chaos.stage import Stage
from chaos.world import World

_LINE_S = 10.0  # between two lines of progress, where they are no terminal's


class Teller:
    """Says what happens: lines, and one that changes below them."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = 0.0

    def line(self, text: str) -> None:
        start = "\r\033[K" if self._terminal else ""
        print(f"{start}{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def progress(self, text: str) -> None:
        if self._terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._last > _LINE_S:
            self._last = time.monotonic()
            self.line(text)


@dataclass
class Outcome:
    """What came of a scenario."""

    scenario: str
    skipped: str = ""  # why
    faults: int = 0
    restarts: int = 0  # of jobs
    produced: int = 0  # records that had to come out, of all outputs
    out: int = 0
    repeated: int = 0
    lost: int = 0
    wrong: int = 0
    seconds: float = 0.0
    schedule: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    logs: str = ""
    outputs: list[Verdict] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.lost and not self.wrong


def play(world: World, scenario: Scenario, chance: Random, turn: int, teller: Teller) -> Outcome:
    """Runs a scenario to its end; its logs are kept where something is lost or wrong."""
    folder = world.folder / f"{scenario.name}-{turn + 1}"
    folder.mkdir()
    plan = scenario.plan(chance)
    outcome = Outcome(scenario.name, logs=str(folder), schedule=[f"{p.after_s:.1f} s: {p}" for p in plan])
    started = time.monotonic()
    with (folder / "chaos.log").open("w", encoding="utf-8") as log:

        def tell(text: str) -> None:
            log.write(f"{time.monotonic() - started:6.1f} {text}\n")
            log.flush()
            teller.line(f"{scenario.name}: {text}")

        stage = scenario.stage(world, scenario.jobs, folder, tell)
        stage.progress = lambda: teller.progress(f"{scenario.name}: {_state(stage)}")
        try:
            stage.begin()
            for planned in plan:
                stage.pass_time(planned.after_s)
                tell(f"{planned} {planned.chance:.3f}")
                planned.fault(stage, planned.chance)
                outcome.faults += 1
            _conclude(outcome, *stage.finish())
        except Exception as error:  # a harness that fails shows nothing: it is no success, and the rest goes on
            outcome.wrong += 1
            outcome.notes.append(f"the harness failed: {error!r}")
            if not isinstance(error, (OSError, RuntimeError)):
                teller.line(f"{scenario.name}: {error!r}")
        finally:
            stage.close()
        outcome.restarts = sum(len(job.runs) - 1 for job in stage.jobs)
        outcome.seconds = round(time.monotonic() - started, 1)
        tell(f"lost {outcome.lost}, wrong {outcome.wrong}, repeated {outcome.repeated} of {outcome.produced}")
        for note in outcome.notes:
            tell(note)
    if outcome.sound:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _state(stage: Stage) -> str:
    produced, out = (sum(ledger.counts[i] for ledger in stage.ledgers) for i in (0, 1))
    return f"{produced:,} to come out, {out:,} came, {sum(ledger.missing for ledger in stage.ledgers):,} missing"


def _conclude(outcome: Outcome, verdicts: list[Verdict], said: list[str]) -> None:
    outcome.outputs = verdicts
    outcome.produced, outcome.out, outcome.repeated = (
        sum(getattr(v, name) for v in verdicts) for name in ("produced", "out", "repeated")
    )
    outcome.lost = sum(len(v.lost) for v in verdicts)
    outcome.wrong = sum(len(v.wrong) for v in verdicts) + len(said)
    outcome.notes += said
    for v in verdicts:
        if v.lost:
            outcome.notes.append(f"{v.output}: lost {len(v.lost)} of {v.produced}, as {v.lost[0]} and {v.lost[-1]}")
        outcome.notes += [f"{v.output}: {line}" for line in v.wrong[:3]]
