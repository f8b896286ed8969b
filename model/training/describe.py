"""The manifest of a version that was trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, packages_distributions
from importlib.metadata import version as library_version
from typing import Any

import numpy as np

from beam_jobs.codec.fingerprint import fingerprint
from model import manifest, registry
from model.kinds.protocol import FittedModel, ModelKind, Scorer, signed_deviations
from model.manifest import DataSummary, Manifest
from model.outliers.groups import LeftOut, find_groups, iso
from model.rows import Floats, Part
from model.training.evaluate import Evaluation
from model.training.gather import Rows
from model.training.judge import Verdict
from model.training.plan import Plan

LIBRARIES = ("numpy", "pyarrow", "polars")  # of every training; a kind's modules come from others


def describe(
    plan: Plan,
    rows: Rows,
    train: Part,
    draft: registry.Draft,
    fitted: FittedModel,
    scorer: Scorer,
    verdict: Verdict,
    evaluations: Mapping[str, Evaluation],
) -> Manifest:
    """Everything there is to say, once all files of the draft but the manifest and the report are written.

    Args:
      train: the rows that ``fitted`` has learnt from.
    """
    preprocessor = plan.use_case.preprocessor()
    limit = verdict.limit
    return Manifest(
        name=draft.name,
        version=draft.version,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        use_case=plan.use_case.name,
        kind=plan.use_case.model.kind,
        features=preprocessor.features,
        units=tuple(preprocessor.units[name] for name in preprocessor.features),
        preprocessing_fingerprint=preprocessor.fingerprint,
        schema_fingerprint=fingerprint(plan.use_case.schema),
        threshold=limit.threshold,
        alert_budget=limit.alert_budget,
        threshold_fit=limit,
        test_alerts=verdict.test_alerts,
        score_quantiles=verdict.distribution.quantiles(),
        data=_summary(plan, rows, int(np.sum(~fitted.train.left_out))),
        network={**json.loads(json.dumps(asdict(plan.own))), "seed": plan.seed, "split": rows.parts.by},
        metrics={name: evaluation.to_json() for name, evaluation in evaluations.items()},
        libraries=_libraries(plan.kind),
        files=manifest.file_hashes(draft.path),
        sentinels=rows.sentinels,
        normal=tuple(one.where for one in plan.normal),
        left_out=_left_out(plan, train, fitted, scorer),
    )


def _left_out(plan: Plan, train: Part, fitted: FittedModel, scorer: Scorer) -> LeftOut:
    """What was left out of the training, and what was put back, in groups."""
    judged, cut = fitted.train, fitted.train.cut
    find = partial(find_groups, train.x, train.keys, train.times)
    features = plan.use_case.preprocessor().features
    groups, others = find(judged.left_out, _deviations(scorer, train.x[:1]), features)
    put_back, _ = find(judged.put_back, None, features, mark="p")  # the network expects them now
    return LeftOut(
        rows=int(judged.left_out.sum()),
        share=float(judged.left_out.mean()),
        cut=cut.score if np.isfinite(cut.score) else None,
        doubt=cut.doubt,
        groups=groups,
        others=others,
        of_keys=int(np.sum(judged.left_out & (judged.scores <= cut.score))),
        put_back=put_back,
    )


def _deviations(scorer: Scorer, some: Floats) -> Callable[[Floats], Floats] | None:
    """Rows to their deviations; None: the model does not say what it expects."""
    said = scorer.explain(some)
    return None if said.expected is None or said.error is None else partial(signed_deviations, scorer)


def _summary(plan: Plan, rows: Rows, training_rows: int) -> DataSummary:
    source, counts, spool = plan.source, rows.counts, rows.spool
    start, until = (None if time is None else iso(time) for time in (source.start_ms, source.end_ms))
    return DataSummary(
        source=source.root,
        files=len(counts.files),
        sha256=counts.sha256(),
        rows=counts.read,
        training_rows=training_rows,
        start=start,
        until=until,
        first_event_time=iso(spool.first_ms),
        last_event_time=iso(spool.last_ms),
        seed=spool.seed,
    )


@cache
def _distributions(path: tuple[str, ...]) -> Mapping[str, list[str]]:
    """Module -> distributions that have it, of those on ``path``, which is ``sys.path``; reads the files of each."""
    return packages_distributions()


def _libraries(kind: ModelKind[Any]) -> dict[str, str]:
    """Distribution to version: of this package, of the kind, and of what both learn with."""
    of_modules = _distributions(tuple(sys.path))
    modules = (type(kind).__module__.partition(".")[0], *kind.modules)
    names = [
        "highbeam",
        *(name.replace("_", "-") for module in modules for name in of_modules.get(module, ())),
        *LIBRARIES,
    ]
    found = {}
    for name in names:
        try:
            found[name] = library_version(name)
        except PackageNotFoundError:
            continue  # a checkout that isn't installed
    return found
