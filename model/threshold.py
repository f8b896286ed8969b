"""Another threshold for a model that is trained already.

    python -m model.threshold models/car_sensors@champion --alert_budget 0.001 --alias challenger

An alert budget is the share of normal rows one is willing to be alerted about: 0.0001 is one in 10,000 rows.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from beam_jobs.errors import UserError, one_line
from beam_jobs.terminal import cli, flags
from beam_jobs.terminal.commands import MODELS
from model import manifest, registry
from model.alert_rate import ThresholdFit
from model.loaded import LoadedModel
from model.manifest import Manifest
from model.outliers.cut import Cut
from model.signature import MODEL_KEY, SIGNING_KEY, Signer
from model.training.distribution import SCORES_FILE, ScoreDistribution


def change(
    spec: str,
    alert_budget: float,
    alias: str | None = None,
    use_case: str | None = None,
    model_key: str | None = None,
    signing_key: str | None = None,
) -> Manifest:
    """Publishes a version with the network of another one and its own threshold; nothing is trained.

    Args:
      spec: the version, as ``registry.resolve`` takes it.
      alert_budget: share of normal rows that may be alerts, 0..1, exclusive.
      alias: to point at the new version; None: no alias moves.
      model_key: as ``registry.resolve`` takes it.
      signing_key: reference to the private key that signs the new version; None: it is not signed.

    Raises:
      UserError: no such version or key, a version without stored scores, a budget or alias that won't do, no permission
        to write.
    """
    signer = None if signing_key is None else Signer(signing_key)
    found = registry.resolve(spec, use_case, model_key)
    model, _, place = found.folder.rstrip("/").rpartition("/versions/")
    if place != found.version:
        raise UserError(f"{found.folder} is not in a registry; name one, as in models/{found.name}@{found.version}")
    if alias is not None:
        registry.check_alias(alias, registry.versions(model))
    before, distribution = _stored(found)
    fitted = distribution.fit_threshold(alert_budget, Cut(before.cut or np.inf, before.left_out, before.doubt))
    with registry.new_version(model.rpartition("/")[0], found.name) as draft:
        for name in found.manifest.files:
            target = draft.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.path / name, target)
        described = replace(
            found.manifest,
            version=draft.version,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            threshold=fitted.threshold,
            alert_budget=alert_budget,
            threshold_fit=fitted,
            test_alerts=None,
            made_from=found.version,
            metrics={name: _without_alerts(values) for name, values in found.manifest.metrics.items()},
        )
        (draft.path / manifest.FILE_NAME).write_text(described.to_json(), encoding="utf-8")
        if signer is not None:
            signer.sign(draft.path)
        LoadedModel.load(draft.path)  # the files are the ones of the manifest, and score as they did
    if alias is not None:
        registry.promote(model, draft.version, alias)
    return described


def _stored(found: registry.ModelVersion) -> tuple[ThresholdFit, ScoreDistribution]:
    """What a version says of its threshold, and the scores it came from."""
    before = found.manifest.threshold_fit
    if before is None or SCORES_FILE not in found.manifest.files:
        raise UserError(
            f"{found.folder} was trained before versions kept the scores of their held-out rows; "
            "train again with this --alert_budget"
        )
    path = found.path / SCORES_FILE
    try:
        return before, ScoreDistribution.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({one_line(error, 200)}); restore it or train again") from error


def _without_alerts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a version that hold at any threshold; the test rows are not there to count the others again."""
    counted = {"recall": None, "precision": None, "false_alert_share": None}
    return {**metrics, **counted, "recall_by_kind": {}, "keys_caught_by_kind": {}}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command line's to a parser."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="registry or model folder, with @alias or @version; without: the champion")
    add("--alert_budget", type=float, required=True, help="share of normal rows that may be alerts, such as 0.001")
    add("--alias", help="alias to point at the new version; default: none moves")
    add(MODEL_KEY, metavar="REFERENCE", help=flags.MODEL_KEY_HELP)
    add(SIGNING_KEY, metavar="REFERENCE", help=flags.SIGNING_KEY_HELP)
    add("--use_case", help="which model, when MODEL is a registry with several")
    add("--verbose", action="store_true", help="stack traces with errors")


def main(argv: Sequence[str]) -> None:
    """Makes the version, and prints what its threshold is expected to do."""
    args = MODELS["threshold"].parser().parse_args(argv)
    made = change(args.model, args.alert_budget, args.alias, args.use_case, args.model_key, args.signing_key)
    print(f"version    {made.version}" + (f" ({args.alias})" if args.alias else "") + f", made from {made.made_from}")
    print(f"threshold  {made.threshold:.4g}, {made.threshold_fit}")
    if args.alias is None:
        print(f"promote    highbeam models promote {shlex.quote(args.model.partition('@')[0])}@{made.version}")


if __name__ == "__main__":
    cli.run(main)
