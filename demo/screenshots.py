"""Draws the live view for the documentation: docs/live-80x24.svg and so on, by the code that draws it in a terminal.

python -m demo.screenshots
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.terminal_theme import MONOKAI

from demo.live import State, render
from demo.referee import Verdict

SIZES = ((80, 24), (100, 30), (120, 40))  # columns, rows
FOLDER = Path(__file__).parent.parent / "docs"

_START = datetime(2026, 11, 22, 7, 28, 18, tzinfo=UTC)
_KINDS: Mapping[
    str, Sequence[tuple[str, float, float, str | None, float]]
] = {  # of failure: what an alert says of it; "": a false alarm
    "overheating": [("current_draw", 87.5, 19.07, "A", 0.99)],
    "drive shaft": [("engine_vibration_amplitude", 3510, 2684, "mV", 0.73), ("speed", 26.2, 24.9, "m/s", 0.17)],
    "tire": [("tire_pressure_2_2", 22, 28.48, "psi", 0.96)],
    "shock absorber": [("accelerometer_1_2_value", 9.1, 3.2, "m/s²", 0.81), ("speed", 31.0, 30.2, "m/s", 0.06)],
    "": [("vibration_per_speed", 0, 80.25, None, 0.40), ("throttle_pos", 0.71, 0.55, None, 0.21)],
}


def sample() -> State:
    """A demo after half a minute, the same on each call."""
    rng = np.random.default_rng(7)
    state = State("Highbeam: 200 cars, 2,000 events/s, 20261122T072740Z-20e6c7", 9.23)
    state.hint = "All alerts: highbeam watch kafka://127.0.0.1:9092/alerts"
    state.add_scores(rng.lognormal(0.2, 0.55, 61_000).astype(np.float32))
    state.add_scores(rng.lognormal(5.0, 1.6, 728).astype(np.float32))
    state.produced = 63_410
    counts = {"scored": 61_728, "filtered": 1_616, "dead_letters": 66, "alerts": 507}
    for rate, p99 in zip(rng.normal(1990, 60, 40).tolist(), rng.normal(126, 12, 40).tolist(), strict=True):
        latency = {"latency_ms_p50": p99 - 21, "latency_ms_p99": p99}
        state.add_progress({"events_per_second": round(rate), "catching_up": False, "behind": 0, **counts, **latency})
    kinds = list(_KINDS)
    for i in range(36):
        kind = "" if i % 12 == 3 else kinds[i % 4]
        features = [
            {"name": name, "observed": observed * (1 + i / 500), "expected": expected, "unit": unit, "share": share}
            for name, observed, expected, unit, share in _KINDS[kind]
        ]
        alert = {"event_time": _START + timedelta(seconds=i / 3), "key": f"car-{37 * i % 200:06}", "features": features}
        for again in range(1 + 29 * i % 17):
            state.add_alert({**alert, "score": 9.3 + 6.7 * i + again}, kind)
    state.verdict = Verdict(507, 503 / 507, 8 / 9, {"overheating": 1.0, "shock_absorber": 0.5, "tire": 1.0}, 9)
    return state


def draw(width: int, height: int) -> str:
    """The view in a terminal of that size, as SVG that asks nothing of the network."""
    console = Console(width=width, height=height, file=io.StringIO(), record=True, force_terminal=True)
    console.print(render(sample(), width, height))
    title = f"highbeam demo, {width} by {height}"
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id=f"live-{width}x{height}")
    before, _, rest = svg.partition("@font-face")
    _, _, after = rest.rpartition("@font-face")
    svg = before + after.partition("}")[2] if rest else svg  # the reader's own fonts will do
    return svg.replace("Fira Code, monospace", "ui-monospace, DejaVu Sans Mono, monospace")


def file_of(width: int, height: int) -> Path:
    """Where the view of a size is kept."""
    return FOLDER / f"live-{width}x{height}.svg"


def main() -> None:
    """Writes all of them."""
    for size in SIZES:
        file_of(*size).write_text(draw(*size) + "\n", encoding="utf-8")
        print(f"wrote {file_of(*size).relative_to(FOLDER.parent)}")


if __name__ == "__main__":
    main()
