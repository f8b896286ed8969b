"""The report of a training: one page of HTML with everything in it, and the same in short for a terminal."""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from beam_jobs.page import cell, code, page, paragraph, table
from model.manifest import Manifest
from model.outliers.groups import Group, LeftOut, percent
from model.training.evaluate import AtBudget, Evaluation
from model.training.peers import Peer, explain
from model.training.pictures import draw
from model.training.plan import place
from model.training.strangest import Strange


@dataclass(frozen=True)
class ReportData:
    """What the report shows beside the manifest."""

    loss: Sequence[float]  # per epoch
    validation_loss: Sequence[float]  # per epoch
    scores: NDArray[np.float32]  # [n], of the test rows
    failed: NDArray[np.bool_]  # [n]
    deviation: Mapping[bool, NDArray[np.float64]]  # failed or not to [F]: root mean error of such test rows, in spreads
    evaluations: Mapping[str, Evaluation]  # net to how it did on the test rows
    peers: tuple[Peer, ...]
    strangest: tuple[Strange, ...]
    command: str  # of this training
    at_budgets: tuple[AtBudget, ...] = ()  # what other alert budgets would find; none without labels


def write_report(folder: Path, manifest: Manifest, data: ReportData) -> Path:
    """Writes ``report.png`` and ``report.html`` (one file, nothing to load) into ``folder``; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "report.png"
    lines = {f"threshold {manifest.threshold:.3g} (alert budget {manifest.alert_budget:g})": manifest.threshold}
    if manifest.left_out is not None and manifest.left_out.cut is not None:
        cut = manifest.left_out.cut
        lines[f"cut {cut:.3g} (training rows above it were left out)"] = cut
    draw(
        picture,
        data.loss,
        data.validation_loss,
        data.scores,
        data.failed,
        lines,
        data.deviation,
        manifest.features,
        data.at_budgets,
        manifest.alert_budget,
    )
    file = folder / "report.html"
    file.write_text(_page(manifest, data, picture.read_bytes()), encoding="utf-8", errors="backslashreplace")
    return file


def metrics_table(evaluations: Mapping[str, Evaluation], peers: Sequence[Peer]) -> list[list[str]]:
    """Rows of text, the header first: one metric a row, one detector a column.

    Without labels there are alerts to count, and how far the others agree with the model, the first column.
    """
    columns = {**evaluations, **{peer.name: peer.evaluation for peer in peers}}
    judged = [e for e in columns.values() if e is not None]
    labels = any(e.failures for e in judged)

    def row(name: str, field: str, digits: int = 3) -> list[str]:
        return [name, *("-" if e is None else _figure(getattr(e, field), digits) for e in columns.values())]

    rows = [["", *columns]]
    if labels:
        rows += [
            row("ROC AUC", "roc_auc", 5),
            row("average precision", "average_precision", 5),
            row("recall at the alert budget", "recall"),
            row("precision at the alert budget", "precision"),
        ]
    rows.append(row("false alerts among normal rows" if labels else "share of alerts", "false_alert_share", 6))
    agreement = {peer.name: peer.agreement for peer in peers}
    if peers:
        rows.append(
            [
                f"the {next(iter(evaluations))}'s alerts it raises too",
                *(_figure(agreement.get(name)) for name in columns),
            ]
        )
    for kind in judged[0].recall_by_kind:
        for what, field in (("recall", "recall_by_kind"), ("failed keys caught", "keys_caught_by_kind")):
            shares = [None if e is None else getattr(e, field)[kind] for e in columns.values()]
            rows.append([f"{what}: {kind}", *map(_figure, shares)])
    return rows


def left_out_lines(left_out: LeftOut) -> list[str]:
    """What was left out, in short: a line for all, a line each for the largest groups, and what to do."""
    lines = [f"left out   {left_out}"]
    if left_out.doubt:
        lines.append(f"           in doubt: {left_out.doubt}")
    few = left_out.groups[:1] + tuple(g for g in left_out.groups[1:4] if g.rows >= 0.05 * left_out.rows)
    lines += [_line(group) for group in few]
    if left_out.groups:
        first = left_out.groups[0].name
        lines.append(f"           if a group is normal, train again with --normal {first}, or with its condition")
    if left_out.put_back:
        lines += ["put back   what most keys show now and then:", *map(_line, left_out.put_back[:4])]
    return lines


def strangest_lines(rows: Sequence[Strange]) -> list[str]:
    """The strangest held-out rows, a line each."""
    lines: list[str] = []
    for row in rows[:3]:
        kind = f" ({row.kind})" if row.kind else ""
        what = "; ".join(map(str, row.readings[:2]))
        lines.append(f"{'' if lines else 'strangest':<11}{row.time}  score {row.score:.4g}{kind}: {what}")
    return lines


def budget_lines(manifest: Manifest) -> list[str]:
    """The threshold, and whether it keeps to the alert budget."""
    lines, counted = [f"threshold  {manifest.threshold:.4g}, {manifest.promise}"], manifest.test_alerts
    if counted is not None:
        lines.append(f"test       alerts on {counted}")
        lines += [f"warning    {counted.warning}"] if counted.warning else []
    lines += [f"warning    {manifest.few_rows}"] if manifest.few_rows else []
    return lines


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _line(group: Group) -> str:
    what = "; ".join(str(each) for each in group.features[:3])
    rows, keys = f"{group.rows:,} row{'s'[: group.rows != 1]}", f"{group.keys:,} key{'s'[: group.keys != 1]}"
    return f"  {group.name:<9}{rows} ({percent(group.row_share)}) of {keys} ({percent(group.key_share)}): {what}"


def _page(manifest: Manifest, data: ReportData, picture: bytes) -> str:
    image = base64.b64encode(picture).decode()
    labels = any(evaluation.failures for evaluation in data.evaluations.values())
    beside = "Figures by labels." if labels else "No test row is labelled as a failure: there are alerts to count only."
    parts = [
        "<h2>What was it trained on?</h2>",
        table(_trained_on(manifest), header=False),
        "<h2>Is the alert budget met?</h2>",
        _verdict(manifest),
        "<h2>What does it find?</h2>",
        _finds(manifest, data),
        f"<img alt='scores, deviation by feature, recall by budget, loss' src='data:image/png;base64,{image}'>",
        "<h2>The strangest held-out rows</h2>",
        _strangest(data.strangest),
        "<h2>What was left out of training</h2>",
        "" if manifest.left_out is None else _left_out(manifest.left_out, data.command),
        "" if not manifest.normal else paragraph(f"Called normal, and kept: {'; '.join(manifest.normal)}."),
        "<h2>Values that look like sentinels</h2>",
        _sentinels(manifest),
        "<h2>Beside other detectors</h2>",
        paragraph(f"All were fitted to the same training rows, and judged by the same held-out ones. {beside}"),
        table(metrics_table(data.evaluations, data.peers)),
        *(paragraph(reason) for reason in explain(data.peers)),
        "<h2>Technical appendix</h2>",
        table(_about(manifest), header=False),
        paragraph("The training, with paths as seen from where it ran:"),
        code(data.command),
    ]
    return page(f"{manifest.name} {manifest.version}", "".join(parts))


def _verdict(manifest: Manifest) -> str:
    counted, few = manifest.test_alerts, manifest.few_rows
    if few:
        verdict = paragraph(f"{few}.", "bad")  # begins with a name
    elif counted is None:
        verdict = paragraph("There were no test rows to count alerts of.", "bad")
    elif counted.warning:
        verdict = paragraph(_sentence(counted.warning), "bad")
    else:
        verdict = paragraph("As far as held-out rows can tell, it is.", "good") + paragraph(
            f"Test rows, which the threshold does not come from: alerts on {counted}."
        )
    return verdict + paragraph(f"The threshold of {manifest.threshold:.4g}: {manifest.promise}.")


def _trained_on(manifest: Manifest) -> list[list[str]]:
    data = manifest.data
    units = [f"{name} ({unit})" if unit else name for name, unit in zip(manifest.features, manifest.units, strict=True)]
    return [
        ["use case", manifest.use_case],
        ["events", f"{data.rows:,} read, of which {data.training_rows:,} were learnt from"],
        ["from", f"{data.first_event_time} to {data.last_event_time}"],
        ["source", f"{place(data.source) or 'files'}, {data.files:,} file{'s'[: data.files != 1]}"],
        [f"{len(units):,} features", ", ".join(units)],
    ]


def _finds(manifest: Manifest, data: ReportData) -> str:
    if not data.at_budgets:
        return paragraph(
            "No held-out row is labelled as a failure (or none as sound), so nobody knows which share of the failures "
            "it finds. With a label in the schema this stands here for several alert budgets."
        )
    rows = [
        [
            f"{each.budget:g}" + (" (this version)" if each.budget == manifest.alert_budget else ""),
            f"{1 / each.budget:,.0f}",
            f"{each.threshold:.4g}",
            percent(each.recall),
            "-" if each.precision is None else percent(each.precision),
            f"{each.false_alert_share:.3g}",
        ]
        for each in data.at_budgets
    ]
    head = [
        "alert budget",
        "normal rows per false alert",
        "threshold",
        "failure rows found",
        "alerts that are right",
        "false alerts",
    ]
    return paragraph(
        "Of the labelled held-out rows, which the model has not seen, with this alert budget and with others (another "
        "one needs no training: highbeam threshold)."
    ) + table([head, *rows])


def _sentinels(manifest: Manifest) -> str:
    if not manifest.sentinels:
        return paragraph("None was found: no value looks like 65535 or -999 that stands for no reading.")
    rows = [
        [each.column, f"{each.value:.9g}", f"{each.rows:,}", f"{each.left_out:,}", f"{each.low:.6g} to {each.high:.6g}"]
        for each in manifest.sentinels
    ]
    return table([["feature", "value", "rows", "of them left out", "other values"], *rows])


def _left_out(left_out: LeftOut, command: str) -> str:
    parts = [paragraph(_sentence(str(left_out)))]
    if left_out.doubt:
        parts.append(paragraph(f"In doubt: {left_out.doubt}.", "bad"))
    if left_out.groups:
        first = left_out.groups[0]
        parts += [
            _groups(left_out.groups),
            paragraph(f"{left_out.others:,} other rows are in no group.") if left_out.others else "",
            paragraph(
                f"A rare state and a fault look alike to a training. If a group, {first.name} say, is normal, say so "
                "and train again (a group is looked up in the latest version; its condition will do at any time):"
            ),
            code(f"{command} --normal {first.name}"),
            code(f"{command} --normal {shlex.quote(first.where)}"),
            paragraph("For good, in use_case.yaml:"),
            code(f"normal:\n  - {json.dumps(first.where, ensure_ascii=False)}"),
        ]
    if left_out.put_back:
        parts += [
            paragraph("Left out at first, then put back and learnt, since most keys show such rows now and then:"),
            _groups(left_out.put_back),
            paragraph("If such rows are faults all the same, keep them out with the WHERE of the SQL, or label them."),
        ]
    return "".join(parts)


def _groups(groups: Sequence[Group]) -> str:
    rows = [
        "<tr>"
        + cell(group.name)
        + f"<td>{'<br>'.join(html.escape(str(each)) for each in group.features)}</td>"
        + f"<td class='figures'>{group.rows:,} ({percent(group.row_share)})</td>"
        + f"<td class='figures'>{group.keys:,} ({percent(group.key_share)})</td>"
        + f"<td><code>{html.escape(group.where)}</code><br>holds for {group.kept:,} of the other rows as well"
        + f"<details><summary>examples</summary>{_examples(group)}</details></td></tr>"
        for group in groups
    ]
    head = "".join(f"<th>{name}</th>" for name in ("group", "what differs", "rows", "keys", "condition"))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _examples(group: Group) -> str:
    names = list(group.examples[0].values)
    rows = [[each.time, *(f"{each.values[name]:.6g}" for name in names)] for each in group.examples]
    return table([["time", *names], *rows])


def _strangest(rows: Sequence[Strange]) -> str:
    labels = any(row.kind for row in rows)
    head = ["time", "score", "percentile", "alert", *(["label"] if labels else []), "what stands out"]
    body = [
        [
            row.time,
            f"{row.score:.4g}",
            f"{row.percentile:.7g}",
            "yes" if row.alert else "no",
            *([row.kind] if labels else []),
            "; ".join(f"{each} ({percent(each.share)})" for each in row.readings),
        ]
        for row in rows
    ]
    return f"<div class='strangest'>{table([head, *body])}</div>"


def _about(manifest: Manifest) -> list[list[str]]:
    about = {
        "version": manifest.version,
        "created": manifest.created_at,
        "use case": manifest.use_case,
        "kind of model": manifest.kind,
        "threshold": f"{manifest.threshold:.6g}",
        "alert budget": f"{manifest.alert_budget:g}",
        "rows read": f"{manifest.data.rows:,}",
        "rows trained on": f"{manifest.data.training_rows:,}",
        "event times": f"{manifest.data.first_event_time} to {manifest.data.last_event_time}",
        "files": f"{manifest.data.files:,} of {place(manifest.data.source)}, sha256 {manifest.data.sha256}",
        "preprocessing": manifest.preprocessing_fingerprint,
        "libraries": ", ".join(f"{name} {version}" for name, version in manifest.libraries.items()),
    }
    return [[key, value] for key, value in about.items()]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
