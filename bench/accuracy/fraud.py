"""Payment fraud on the public benchmark: a published model again, detectors without labels, and boosting with them.

Each way is trained anew in five weeks and judged by the week behind the delay of labels (``model/backtest``); choices
were made by the third week alone, "validation", a fortnight before the published test week, which is the fifth.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from beam_jobs.preprocessing.stages import Unordered
from beam_jobs.preprocessing.whole import over_all
from beam_jobs.preprocessing.windows.order import by_log
from beam_jobs.sandbox.payments import START, benchmark
from beam_jobs.use_case import UseCase, load_use_case
from bench.accuracy.figures import Found
from demo.broker import cache_dir
from model.backtest.rounds import DAY_MS, Judgement, Labelled, Round, Split, fit, judge, rounds
from model.kinds import KINDS

WEEKS = ("june_27", "july_4", "validation", "july_18", "test")  # from when each trains; validation: July 11, test: 25
FIRST_DAY = 87  # of the benchmark's days: June 27
TRAININGS = 5  # seeds of each; where there is no chance, of the keys that are held out alone
TOP, BUDGET = 100, 385 / 58_264  # cards a day; as many alerts as the test week has frauds
HELD_OUT = 0.05  # of the keys, for stopping early
TELLS_MS, TOLD_MS = 28 * DAY_MS, 7 * DAY_MS  # how long a terminal stays compromised, and until that is known

Floats = NDArray[np.float32]

PLAIN = load_use_case("fraud_benchmark").preprocessor().features  # the benchmark's 15 inputs
EVERY = load_use_case("fraud_benchmark_history").preprocessor().features
ARITHMETIC = EVERY[: EVERY.index("amount_to_median")]  # the 15, and what can be computed of them
ORACLE = "told"  # a column beside them: a fraud that something known by then could tell


@dataclass(frozen=True)
class Way:
    """A way to find frauds."""

    about: str
    inputs: Sequence[str]
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    labels: bool = False  # whether training may know them


RATES = [[f"terminal_frauds_{days}", f"terminal_count_{days}"] for days in ("1d", "7d", "30d")]
TAILS = ("amount", "amount_to_others_30d", "customer_mean_7d_to_30d")
TAIL_INPUTS = (*TAILS, *(name for pair in RATES for name in pair))
OF_TAILS = {"inputs": TAILS, "only_more": TAILS, "rates": RATES}
RATIOS = ("amount_to_others_30d", "customer_mean_7d_to_30d", "customer_mean_1d_to_30d")
TOGETHER = (*(name for name in PLAIN if name not in ("weekend", "night") and "terminal_count" not in name), *RATIOS)
NETWORK = {"hidden": [24, 8, 24], "noise": 0.1, "epochs": 8, "error": "variance", "only_more": TOGETHER}
TREES = {"trees": 600, "learning_rate": 0.015, "least_rows": 50, "row_share": 0.8, "feature_share": 0.5}


def _of_tails(inputs: Sequence[str], rates: Sequence[Sequence[str]]) -> Mapping[str, Any]:
    """Settings of a logistic regression: numbers of frauds count as rates, what is made of them does not."""
    of_rates = {name for pair in rates for name in pair}
    plain = [name for name in inputs if name not in of_rates and not name.startswith("terminal_frauds")]
    return {"inputs": plain, "rates": rates}


def _together(logistic: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of an average of boosting and a logistic regression."""
    return {"of": [{"kind": "boosting", **TREES}, {"kind": "logistic_regression", **logistic}]}


WEEKS_OF_DELAY = [[f"terminal_frauds_week_{i}", f"terminal_count_week_{i}"] for i in (2, 3, 4)]
LOGISTIC, LOGISTIC_EVERY = _of_tails(ARITHMETIC, RATES), _of_tails(EVERY, [*RATES, *WEEKS_OF_DELAY])

WAYS = {
    "isolation_forest": Way("isolation forest, 15 inputs", PLAIN, "isolation_forest"),
    "robust_distance": Way("robust distance, 15 inputs", PLAIN, "robust_distance"),
    "autoencoder": Way("autoencoder, 10 of the 15 inputs and three ratios", TOGETHER, "autoencoder", NETWORK),
    "tail_probability": Way(
        "tail probabilities: amount, two ratios, a terminal's frauds", TAIL_INPUTS, "tail_probability", OF_TAILS
    ),
    "average": Way(
        "average of these tail probabilities and an isolation forest",
        TAIL_INPUTS,
        "average",
        {"of": [{"kind": "tail_probability", **OF_TAILS}, {"kind": "isolation_forest"}]},
    ),
    "boosting_15": Way("boosting, 15 inputs", PLAIN, "boosting", TREES, labels=True),
    "boosting_arithmetic": Way("boosting, 15 inputs and arithmetic", ARITHMETIC, "boosting", TREES, labels=True),
    "boosting_history": Way("boosting, all windows", EVERY, "boosting", TREES, labels=True),
    "logistic_arithmetic": Way(
        "logistic regression of tail probabilities, 15 inputs and arithmetic",
        ARITHMETIC,
        "logistic_regression",
        LOGISTIC,
        labels=True,
    ),
    "together_arithmetic": Way(
        "average of it and boosting, 15 inputs and arithmetic", ARITHMETIC, "average", _together(LOGISTIC), labels=True
    ),
    "together_history": Way("average of both, all windows", EVERY, "average", _together(LOGISTIC_EVERY), labels=True),
}
TASKS = ("data", "ceiling", "logistic_regression", *WAYS)


def measure(name: str, seed: int) -> Found:
    """One way, in every week; or the data, or what could be found at best."""
    found = Found(f"fraud.{name}")
    table, counts = rows()
    if name == "data":
        for what, count in counts.items():
            found.add(what, count)
        return found
    start = int((START + np.timedelta64(FIRST_DAY, "D")).astype("datetime64[ms]").astype(np.int64))
    judged = []
    for week, one in zip(WEEKS, rounds(table, start, Split(), len(WEEKS)), strict=True):
        judged.append(judge(scores(name, one, seed), one, TOP, BUDGET))
        _add(found, week, judged[-1])
    for what in ("roc_auc", "average_precision", "key_precision"):
        found.add(f"weeks.{what}", float(np.mean([getattr(each, what) for each in judged])))
    return found


def _add(found: Found, week: str, judged: Judgement) -> None:
    for what in ("rows", "failures", "roc_auc", "average_precision", "key_precision"):
        found.add(f"{week}.{what}", getattr(judged, what))
    for kind, share in judged.recall.items():
        found.add(f"{week}.recall_{kind}", share)


def scores(name: str, one: Round, seed: int) -> NDArray[Any]:
    """Of a round's test rows, by a way that has learnt from the others; of rows with EVERY and ORACLE for features."""
    if name == "ceiling":  # all that can be told found, the others in any order
        return _columns(one.test, [ORACLE])[:, 0] + np.random.default_rng((seed, 7)).uniform(0, 0.5, len(one.test.x))
    if name == "logistic_regression":
        return _logistic_regression(one)
    way = WAYS[name]
    kind = KINDS.get(way.kind)
    train = Labelled(_columns(one.train, way.inputs), one.train.keys, one.train.times, one.train.kinds)
    fitted = fit(kind, kind.settings(**way.settings), train, way.inputs, seed, HELD_OUT, way.labels)
    return fitted.scorer.score(_columns(one.test, way.inputs))


def _logistic_regression(one: Round) -> NDArray[Any]:
    """scikit-learn's, with its own defaults, of standardised inputs."""
    from sklearn.linear_model import LogisticRegression  # takes seconds to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(_columns(one.train, PLAIN).astype(np.float64), one.train.failed)
    scores: NDArray[Any] = model.predict_proba(_columns(one.test, PLAIN).astype(np.float64))[:, 1]
    return scores


def _columns(rows: Labelled, names: Sequence[str]) -> Floats:
    return np.ascontiguousarray(rows.x[:, [(*EVERY, ORACLE).index(name) for name in names]])


@cache
def rows() -> tuple[Labelled, Mapping[str, int]]:
    """The rows of the five weeks, with EVERY and ORACLE for features, and what the data count; kept in the cache."""
    cases = [load_use_case(name) for name in ("fraud_benchmark", "fraud_benchmark_history")]
    prints = "-".join(case.preprocessor().fingerprint[:12] for case in cases)
    path = cache_dir() / f"fraud-{prints}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            np.savez(Path(folder) / "rows.npz", allow_pickle=False, **_computed(cases))
            os.replace(Path(folder) / "rows.npz", path)
    with np.load(path) as data:
        names = ["", *(str(kind) for kind in (1, 2, 3))]
        kinds = pa.DictionaryArray.from_arrays(pa.array(data["scenario"]), pa.array(names))
        counts = {name: int(data[name]) for name in data.files if data[name].ndim == 0}
        return Labelled(data["x"], data["customer"], data["times"], kinds), counts


def _computed(cases: Sequence[UseCase]) -> dict[str, NDArray[Any]]:
    """The benchmark through the SQL of both use cases, whose 15 inputs are the same."""
    payments = benchmark()
    plain, every = (features_of(case, payments.table()) for case in cases)
    assert (plain == every[:, : plain.shape[1]]).all()
    time_ms = payments.table()["event_time"].cast(pa.int64()).to_numpy()
    oracle = told(payments.scenario, payments.terminal, time_ms)
    first = int(time_ms[0]) // DAY_MS * DAY_MS + FIRST_DAY * DAY_MS
    kept = (time_ms >= first) & (time_ms < first + (Split().days + 7 * len(WEEKS)) * DAY_MS)
    numbers = {"payments": len(payments), **{f"scenario_{i + 1}": n for i, n in enumerate(payments.added)}}
    return {
        "x": np.column_stack([every, oracle])[kept].astype(np.float32),
        "customer": payments.customer[kept],
        "times": time_ms[kept],
        "scenario": payments.scenario[kept].astype(np.int32),
        **{name: np.array(number) for name, number in numbers.items()},
    }


def features_of(case: UseCase, payments: pa.Table) -> Floats:
    """A use case's features of payments, [n, F], in their order."""
    preprocessor = case.preprocessor()
    ids, parts = [], []
    logs = by_log(payments.to_batches(max_chunksize=1 << 15), case.event_time)
    for events, result in over_all(preprocessor, logs, Unordered()):
        ids.append(events["payment_id"].to_numpy()[result.kept])
        parts.append(np.stack([result.rows[name].to_numpy() for name in preprocessor.features], axis=1))
    found: Floats = np.concatenate(parts)[np.argsort(np.concatenate(ids))]
    return found


def told(scenario: NDArray[np.int64], terminal: NDArray[np.int64], time_ms: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Frauds but those at a terminal (scenario 2) of which no fraud was known by then, [n]."""
    of_terminal = scenario == 2
    span = int(time_ms.max() - time_ms.min()) + 2 * TELLS_MS
    place = terminal * span + (time_ms - time_ms.min() + TELLS_MS)
    known = np.sort(place[of_terminal])
    before = np.searchsorted(known, place - TOLD_MS, "right") - np.searchsorted(known, place - TELLS_MS, "left")
    return (scenario > 0) & (~of_terminal | (before > 0))
