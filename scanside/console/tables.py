"""What the verbs print on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from scanside.bench.loadgen import LoadgenResult
    from scanside.bench.measurement import Measurement
    from scanside.calibration.calibrate import Calibrated
    from scanside.calibration.graph_report import GraphReport
    from scanside.demo import Demonstration
    from scanside.doctor import Examination
    from scanside.engine.tensorrt.inspect import PlanInspection
    from scanside.engine.tensorrt.plan import StoredPlan
    from scanside.engine.tensorrt.plans import PlanRow
    from scanside.evaluation.result import Evaluation
    from scanside.exam.inspect import InspectRow
    from scanside.pack import GoldenResult, Pack
    from scanside.parity.certify import Parity
    from scanside.report.model import Lesion, Report
    from scanside.report.tables import Study

_WIDTH_WHEN_PIPED = 120


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json_module.dumps(value, indent=2, allow_nan=False))


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH_WHEN_PIPED)


def _table(title: str | None, columns: Sequence[str], right: Iterable[str] = ()) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def _point(mm: Sequence[float]) -> str:
    return ", ".join(f"{v:.1f}" for v in mm)


def _size(mm: Sequence[float]) -> str:
    return " x ".join(f"{v:.1f}" for v in mm)


def _class(malignant: bool) -> str:
    return "[red]malignant[/red]" if malignant else "[green]benign[/green]"


def lesion_table(lesions: Sequence[Lesion], title: str) -> Table:
    """One row a lesion, in the order given."""
    columns = ("lesion", "finding", "probability", "detection", "size mm", "centre mm", "planes seen")
    table = _table(title, columns, right=("lesion", "probability", "detection"))
    for lesion in lesions:
        table.add_row(
            str(lesion.id),
            _class(lesion.malignant),
            f"{lesion.probability:.2f}",
            f"{lesion.detection_score:.2f}",
            _size(lesion.diameters_mm),
            _point(lesion.centroid_mm),
            " ".join(lesion.planes_seen),
        )
    return table


def print_findings(report: Report) -> None:
    """The lesions of one volume, the most suspicious first as the report lists them, and what ran."""
    console = _console()
    if report.lesions:
        console.print(lesion_table(report.lesions, "sweep, depth, lateral in mm"))
    else:
        console.print("no lesions found")
    console.print(_ran(report), markup=False)
    exam = report.exam
    if not exam.complete:
        came = exam.shape[0] - exam.missing_frames
        console.print(f"INCOMPLETE: {came} of {exam.shape[0]} frames were analysed", markup=False)
    for warning in (*exam.warnings, *report.device.fallbacks):
        console.print(f"warning: {warning}", markup=False)


def _ran(report: Report) -> str:
    device = report.device
    seconds = report.timing_ms.total / 1000
    sections = sum(device.sections.values())
    policy = f"policy {device.policy} ({sections} sections)"
    ran = f"{device.runtime} {device.precision}"
    if len({network.precision for network in device.networks.values()}) > 1:
        ran = ", ".join(f"{name} {n.precision} on {n.runtime}" for name, n in device.networks.items())
    return f"{ran}, {policy}, {seconds:.1f} s on {device.name}"


def print_inspection(rows: Sequence[InspectRow], *, json: bool) -> None:
    """What `scanside inspect` shows."""
    if json:
        print_json({"schema": "scanside-inspect/1", "volumes": [row.to_json() for row in rows]})
        return
    from scanside.exam.inspect import line

    for row in rows:
        print(line(row))


def print_pack(pack: Pack, *, json: bool) -> None:
    """What `scanside pack info` shows."""
    from scanside.pack import describe, info_rows

    if json:
        print_json(describe(pack))
        return
    table = _table(None, ("", ""))
    table.show_header = False
    for label, text in info_rows(pack):
        table.add_row(label, text)
    console = _console()
    console.print(table)
    card = pack.card()
    if card is not None:
        console.print(card, markup=False, highlight=False, soft_wrap=True)


def print_verified(pack: Pack, golden: Sequence[GoldenResult]) -> None:
    """What `scanside pack verify` shows of a pack that passed."""
    print(
        f"{pack.manifest.name} {pack.manifest.version}: {len(pack.manifest.files)} files intact, sha256 {pack.sha256}"
    )
    for result in golden:
        print(f"{result.file}: reproduced, max error {result.max_error:.3g}, mean {result.mean_error:.3g}")


def print_plans(rows: Sequence[PlanRow], *, json: bool) -> None:
    """What `scanside build` shows: each plan with its size, memory and time."""
    if json:
        plans = [{**row.plan.to_json(), "target": row.target, "reused": row.reused} for row in rows]
        for plan in plans:
            del plan["build"]["layers"]
        print_json({"schema": "scanside-build/1", "plans": plans})
        return
    columns = ("network", "precision", "target", "plan MB", "weights MB", "activations MB", "seconds", "")
    table = _table(None, columns, right=("plan MB", "weights MB", "activations MB", "seconds"))
    for row in rows:
        key, record = row.plan.key, row.plan.record
        table.add_row(
            key.network,
            key.precision,
            f"SM{key.compute_capability.replace('.', '')}",
            _megabytes(row.plan.bytes),
            _megabytes(record.weight_bytes),
            " ".join(map(_megabytes, record.activation_bytes)),
            f"{record.seconds:.1f}",
            "was there" if row.reused else "",
        )
    console = _console()
    console.print(table)
    if rows:
        console.print(f"activations: one number a profile; plans in {rows[0].plan.path.parent}", markup=False)


def print_plan(found: PlanInspection, *, json: bool) -> None:
    """What `scanside inspect FILE.plan` shows."""
    if json:
        print_json(found.to_json())
        return
    plan, console = found.plan, _console()
    for label, text in _plan_rows(plan):
        console.print(f"{label:<13}{text}", markup=False, soft_wrap=True)
    table = _table("layers as parsed, by kind and output type", ("kind", "type", "count"), right=("count",))
    for (kind, dtype), count in found.counts.items():
        table.add_row(kind, dtype, str(count))
    console.print(table)
    quantized, dequantized = found.quantize_pairs
    console.print(
        f"{quantized} QuantizeLinear and {dequantized} DequantizeLinear; "
        f"{plan.record.folded_weights} 8-bit weights unfolded before building",
        markup=False,
    )
    if found.remark:
        console.print(found.remark, markup=False, soft_wrap=True)
    else:
        console.print(f"{len(found.engine_layers)} fused layers; --json lists them", markup=False)


def _plan_rows(plan: StoredPlan) -> list[tuple[str, str]]:
    key, record = plan.key, plan.record
    profiles = json_module.loads(key.options)["profiles"]
    activations = [_megabytes(size) for size in record.activation_bytes] or ["?"] * len(profiles)
    rows = [
        ("plan", plan.path.name),
        ("network", f"{key.network} {key.precision}, graph sha256 {key.graph_sha256}"),
        ("built for", f"compute capability {key.compute_capability}, driver {key.driver}, {key.system}"),
        ("built by", f"{key.module} {key.module_version} in {record.seconds:.1f} s; log {plan.log_path.name}"),
        ("size", f"{_megabytes(plan.bytes)} MB, weights {_megabytes(record.weight_bytes)} MB"),
    ]
    for profile, activation in zip(profiles, activations, strict=False):
        shapes = "; ".join(
            f"{name} {' | '.join('x'.join(map(str, shape)) for shape in three)}" for name, three in profile.items()
        )
        rows.append(("profile", f"{shapes}: activations {activation} MB"))
    return rows


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f}"


def print_doctor(examination: Examination, *, json: bool) -> None:
    """What `scanside doctor` shows."""
    if json:
        print_json(examination.to_json())
        return
    from rich.text import Text

    colours = {"ok": "green", "absent": "dim", "unconfirmed": "yellow", "problem": "bold red"}
    console = _console()
    group = ""
    for check in examination.checks:
        if check.group != group:
            group = check.group
            console.print(Text(group, style="bold"))
        state = check.state.value
        line = Text.assemble("  ", (f"{state:<12}", colours[state]), f"{check.name:<18} {check.detail}")
        console.print(line, soft_wrap=True)
        if check.remedy:
            console.print(Text(f"{'':<33}-> {check.remedy}", style="dim"), soft_wrap=True)
    verdict = "this machine can analyse exams"
    console.print(verdict if examination.healthy else "`scanside analyze` cannot run here yet", markup=False)


def print_outcome(outcome: Report | Study, *, json: bool) -> None:
    """What `scanside analyze` shows: the findings of a volume, or of each volume of a study."""
    from scanside.report.json import to_json
    from scanside.report.tables import Study

    if json:
        print_json(outcome.to_json() if isinstance(outcome, Study) else to_json(outcome))
    elif isinstance(outcome, Study):
        _print_study(outcome)
    else:
        print_findings(outcome)


def _print_study(study: Study) -> None:
    console = _console()
    columns = ("volume", "source", "side", "view", "verdict", "lesions", "malignant", "highest", "folder or reason")
    table = _table(None, columns, right=("volume", "lesions", "malignant", "highest"))
    for row in study.rows:
        highest = "" if row.highest_probability is None else f"{row.highest_probability:.2f}"
        counts = ["" if n is None else str(n) for n in (row.lesions, row.malignant)]
        words = [row.source, row.laterality, row.view, row.verdict]
        table.add_row(str(row.volume), *map(_plain, words), *counts, highest, _plain(row.folder or row.reason))
    console.print(table)


def print_measurement(measurement: Measurement, *, json: bool) -> None:
    """What `scanside bench` shows of one benchmark."""
    if json:
        print_json(measurement.to_json())
        return
    console = _console()
    title = f"{measurement.name}: {len(measurement.samples_ms)} runs, {measurement.checked} answers checked"
    console.print(title, markup=False)
    table = _table(None, ("percentile", "ms", "95 % interval"), right=("ms", "95 % interval"))
    for p in measurement.percentiles:
        table.add_row(f"p{p.percent:g}", f"{p.value:.2f}", f"{p.low:.2f} to {p.high:.2f}")
    console.print(table)
    if measurement.stages:
        table = _table("stages of the median run", ("stage", "busy ms", "of wall"), right=("busy ms", "of wall"))
        for stage in measurement.stages:
            table.add_row(stage.name, f"{stage.busy_ms:.1f}", f"{stage.share_of_wall:.0%}")
        console.print(table)
    figures = {measurement.rate_unit: measurement.rate, **measurement.figures}
    for name, value in (*figures.items(), *measurement.slowdowns.items()):
        if value not in (None, []):
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            console.print(f"{name:<24} {shown}", markup=False)
    conditions = measurement.conditions
    console.print(f"{conditions['runtime']} {conditions['precision']} on {conditions['device_name']}", markup=False)


def print_loadgen(result: LoadgenResult, *, json: bool) -> None:
    """What `scanside bench loadgen` shows."""
    if json:
        print_json(result.to_json())
        return
    console = _console()
    verdict = "valid" if result.valid else "not valid"
    console.print(f"MLPerf LoadGen, {result.scenario}, {result.what}: {verdict}", markup=False)
    for name, value in result.figures.items():
        console.print(f"{name:<24} {value:.3f}", markup=False)
    for reason in result.reasons:
        console.print(f"  {reason}", markup=False)


def print_demo(shown: Demonstration) -> None:
    """What `scanside demo` shows: the findings, and each true lesion with what became of it."""
    print_findings(shown.report)
    console = _console()
    columns = ("truth", "is", "kind", "size mm", "found as", "centre off mm", "called")
    table = _table("the lesions that are there", columns, right=("truth", "centre off mm"))
    for lesion, match in zip(shown.truth, shown.matches.truth, strict=True):
        right = match.called_malignant == match.malignant
        called = {True: "malignant", False: "benign", None: ""}[match.called_malignant]
        table.add_row(
            str(lesion.id),
            _class(lesion.malignant),
            lesion.kind,
            _size(lesion.diameters_mm),
            f"lesion {match.lesion_id}" if match.found else "[red]missed[/red]",
            f"{match.centroid_error_mm:.1f}" if match.centroid_error_mm is not None else "",
            f"{called}{'' if right else ' (wrong)'}" if match.found else "",
        )
    console.print(table)
    matches = shown.matches
    text = (
        f"{matches.n_found} of {matches.n_truth} lesions found, {matches.n_called_right} called right, "
        f"{matches.n_false_positives} false positives; {shown.seconds:.0f} s in all"
    )
    console.print(text, markup=False)
    for label, folder in (("exam", shown.exam_folder), ("report", shown.report_folder)):
        console.print(f"{label:<7} {folder}", markup=False, soft_wrap=True)


def print_evaluation(evaluation: Evaluation, out: Path) -> None:
    """What `scanside evaluate` shows: the main figures of every classifier, and where the rest is."""
    console = _console()
    columns = ("cohort", "classifier", "n", "AUC (95% CI)", "sensitivity", "specificity", "accuracy")
    table = _table(None, columns, right=columns[2:])
    for found in evaluation.accuracies:
        area = found.interval["auc"]
        shares = [found.confusion.proportions[name].estimate for name in columns[4:]]
        table.add_row(
            _plain(found.cohort),
            _plain(str(found.classifier)),
            str(found.confusion.n),
            f"{found.auc.auc:.3f} ({area.low:.3f}-{area.high:.3f})",
            *(f"{share:.3f}" for share in shares),
        )
    console.print(table)
    console.print(f"summary {out / 'summary.md'}", markup=False, soft_wrap=True)


def print_calibrated(made: Calibrated) -> None:
    """What `scanside calibrate` shows: per network what runs in 8 bits, and how both precisions answer."""
    columns = ("network", "graph", "in it", "mean error", "max error", "Dice")
    table = _table("against the FP32 graph, in probability", columns, right=("mean error", "max error", "Dice"))
    for network in made.networks:
        total = len(network.placement.rounded) + len(network.placement.refused)
        for check, text in (
            (network.int8, f"{len(network.placement.rounded)} of {total} operations in 8 bits, {network.method}"),
            (network.fp16, f"{len(network.kept_in_fp32)} nodes kept in FP32"),
        ):
            dice = "" if check.dice is None else f"{check.dice:.4f}"
            errors = (f"{check.mean_error:.2g}", f"{check.max_error:.2g}")
            table.add_row(network.network, check.compared, text, *errors, dice)
    console = _console()
    console.print(table)
    console.print(f"pack    {made.pack}", markup=False, soft_wrap=True)
    kept = ", ".join(f"{certificate.network} {certificate.precision}" for certificate in made.certificates)
    console.print(f"certificates kept: {kept or 'none'}", markup=False, soft_wrap=True)
    text = "certify any other precision with `scanside parity` before it runs without --allow-uncertified"
    console.print(text, markup=False, soft_wrap=True)


def print_parity(parity: Parity, *, json: bool) -> None:
    """What `scanside parity` shows: a row a network and precision, what is not met, and the exams."""
    if json:
        print_json(parity.to_json())
        return
    console = _console()
    columns = ("network", "precision", "lesions", "probability", "AUC or Dice difference", "flips", "parity")
    table = _table(None, columns, right=("lesions", "flips"))
    for judged in parity.judged:
        made = judged.certificate
        figures = []
        if made.auc is not None:
            figures = [f"AUC {made.auc.difference:+.5f}"]
            for name, interval in (("DeLong", made.auc.delong), ("bootstrap", made.auc.bootstrap)):
                figures.append(f"{name} {interval[0]:+.5f} to {interval[1]:+.5f}")
        if made.masks is not None:
            masks = made.masks
            figures = [
                f"Dice {masks.dice_difference:+.5f}",
                f"HD95 {masks.hd95_difference_mm:+.3f} mm",
                f"components {masks.matched} matched, {masks.appeared} new, {masks.vanished} gone",
            ]
        error = made.probability
        table.add_row(
            made.network,
            f"{made.precision} on {made.runtime}",
            str(made.lesions),
            f"mean {error.mean:.2g}, p99 {error.p99:.2g}, max {error.max:.2g}",
            "\n".join(figures),
            str(len(made.flips)),
            "[red]not met[/red]" if judged.unmet else "[green]met[/green]",
        )
    console.print(table)
    for judged in parity.judged:
        made = judged.certificate
        label = f"{made.network} {made.precision}"
        for reason in judged.unmet:
            console.print(f"{label}: not met: {reason}", markup=False, soft_wrap=True)
        if made.flips:
            console.print(f"{label}: flips: {', '.join(made.flips)}", markup=False, soft_wrap=True)
    for network, reason in parity.not_judged:
        console.print(f"{network}: not judged: the cases have {reason}", markup=False, soft_wrap=True)
    for precision, exams in parity.exams.items():
        matched, lost, new, flips = (
            sum(getattr(exam, name) for exam in exams) for name in ("matched", "only_reference", "only_here", "flips")
        )
        text = f"{matched} lesions matched, {lost} found by the reference alone, {new} by this precision alone"
        console.print(f"{len(exams)} exams in {precision}: {text}, {flips} flips", markup=False, soft_wrap=True)
    against = dict.fromkeys(judged.certificate.against for judged in parity.judged)
    console.print(f"against {'; '.join(against)}", markup=False, soft_wrap=True)


def print_graphs(reports: Sequence[GraphReport], *, json: bool) -> None:
    """What `scanside inspect GRAPH` shows: every layer, then the sums."""
    if json:
        print_json({"graphs": [report.to_json() for report in reports]})
        return
    console = _console()
    for report in reports:
        columns = ("layer", "operation", "runs in", "weight bits", "weight", "output", "M multiplications")
        table = _table(None, columns, right=("weight bits", "M multiplications"))
        for layer in report.layers:
            shapes = (" x ".join(map(str, shape)) for shape in (layer.weight_shape, layer.output_shape))
            count = f"{layer.multiplications / 1e6:.1f}"
            table.add_row(layer.name, layer.op_type, layer.precision, str(layer.weight_bits), *shapes, count)
        console.print(table)
        _print_graph_sums(console, report)


def print_lint(reports: Sequence[GraphReport], *, json: bool) -> None:
    """What `scanside lint` shows: findings by kind, then the sums."""
    if json:
        print_json({"graphs": [report.to_json() for report in reports]})
        return
    console = _console()
    for report in reports:
        if report.findings:
            table = _table(None, ("finding", "where", "what"))
            for finding in sorted(report.findings, key=lambda finding: finding.kind):
                table.add_row(finding.kind, _plain(finding.node), _plain(finding.text))
            console.print(table)
        _print_graph_sums(console, report)


def _print_graph_sums(console: Console, report: GraphReport) -> None:
    dims = ", ".join(f"{name} {size}" for name, size in report.dims.items())
    base = report.activation_bytes["fp32"] or 1
    memory = ", ".join(
        f"{name} {size / 1e6:.2f} MB ({size / base:.2f})" for name, size in report.activation_bytes.items()
    )
    operators = ", ".join(f"{count} {name}" for name, count in report.operators.items())
    lines = (
        f"{report.name}: {report.bytes / 1e6:.1f} MB, opset {report.opset}, sha256 {report.sha256}",
        f"{len(report.layers)} weighted operations, {report.int8_share:.1%} of the multiplications in 8 bits, "
        f"{report.activation_pairs} activation pairs, {len(report.findings)} findings",
        f"operators: {operators}",
        f"activation memory, estimated, at {dims}: {memory}",
    )
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
