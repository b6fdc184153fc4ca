"""TensorRT plans for several GPUs, built without one: size, memory and time of each.

Of a pack's networks, or of untrained classifiers of any backbone in all variants: what is tabulated does not depend on
the weights' values.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table
from scanside.engine.capabilities import capabilities
from scanside.engine.tensorrt.build import build_plan
from scanside.engine.tensorrt.cache import PlanCache
from scanside.engine.tensorrt.module import require
from scanside.engine.tensorrt.plan import BuildOptions, BuildRecord
from scanside.engine.tensorrt.plans import build_pack, targets_from
from scanside.engine.tensorrt.profiles import Profile
from scanside.pack import Pack, load_pack

GPU = "none: plans are built ahead of time, so nothing here says how fast they run"


def profile_rows(
    named: dict[str, str], profiles: Sequence[dict[str, Any]], record: BuildRecord, plan_bytes: int
) -> list[dict[str, Any]]:
    """One row for each profile of a plan; `shape` is the profile's largest."""
    return [
        {
            **named,
            "shape": "x".join(map(str, next(iter(profile.values()))[2])),
            "activation_bytes": activation,
            "weight_bytes": record.weight_bytes,
            "plan_bytes": plan_bytes,
            "layers": len(record.layers),
            "unfolded_weights": record.folded_weights,
            "build_seconds": record.seconds,
        }
        for profile, activation in zip(profiles, record.activation_bytes, strict=True)
    ]


def against_fp32(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Activation, weight and plan bytes of every other precision over fp32's, network, target and shape alike.

    None where fp32 has none.
    """
    whole = {(r["network"], r["target"], r["shape"]): r for r in rows if r["precision"] == "fp32"}
    ratios = []
    for row in rows:
        reference = whole.get((row["network"], row["target"], row["shape"]))
        if row["precision"] != "fp32" and reference is not None:
            sizes = ("activation_bytes", "weight_bytes", "plan_bytes")
            named = {key: row[key] for key in ("network", "precision", "target", "shape")}
            ratios.append({**named, **{s: round(row[s] / reference[s], 3) if reference[s] else None for s in sizes}})
    return ratios


def pack_rows(pack: Pack, targets: tuple[str, ...]) -> Iterator[list[dict[str, Any]]]:
    """The rows of every network and precision of a pack, plan by plan, in a cache that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        for row in build_pack(pack, targets=targets, cache=PlanCache(Path(folder) / "plans")):
            key = row.plan.key
            named = {"network": key.network, "precision": key.precision, "target": row.target}
            yield profile_rows(named, json.loads(key.options)["profiles"], row.plan.record, row.plan.bytes)


def backbone_rows(
    pack: Pack, backbones: Sequence[str], targets: tuple[str, ...], variants: Sequence[str] = ()
) -> Iterator[list[dict[str, Any]]]:
    """The rows of untrained classifiers of `backbones` in every variant, with the pack's crop size and batch, fp32."""
    from scanside.export.onnx import export_classifier
    from scanside.models.fusion import VARIANTS, FusionClassifier

    size, batch = pack.manifest.classifier.size, pack.manifest.classifier.batch
    for backbone in backbones:
        for variant in variants or VARIANTS:
            model = FusionClassifier(backbone, variant).eval()  # type: ignore[arg-type]
            with tempfile.TemporaryDirectory() as folder:
                graph = export_classifier(model, Path(folder) / "classifier.onnx", size).read_bytes()
            shapes = tuple((count, 1, size, size) for count in (1, batch, batch))
            profile = Profile(dict.fromkeys(model.planes, shapes))  # type: ignore[arg-type]
            for target in targets:
                where = f"{backbone} {variant}"
                built = build_plan(require(target), graph, BuildOptions((profile,)), target, where=where)
                named = {"network": where, "precision": "fp32", "target": target}
                yield profile_rows(named, [profile.to_json()], built.record, len(built.plan))


def make_table(*, out: Path, pack: Path | None, targets: str, backbones: str, variants: str = "") -> None:
    """Write the table of a pack, or of untrained `backbones` in `variants` (names with commas) if any are named."""
    names, opened = targets_from(targets), load_pack(pack)
    wanted, looks = (tuple(filter(None, text.split(","))) for text in (backbones, variants))
    rows: list[dict[str, Any]] = []
    for some in backbone_rows(opened, wanted, names, looks) if wanted else pack_rows(opened, names):
        rows += some
        for row in some:
            print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    machine, trt = capabilities(), require(names[0])
    manifest = opened.manifest
    stem = "plans-" + ("-".join(wanted) if wanted else f"{manifest.name}-{manifest.version}")
    write_csv(out / f"{stem}.csv", rows)
    write_json(
        out / f"{stem}.json",
        {
            **conditions(),
            trt.name: trt.version,
            "processor": machine.processor,
            "cores": machine.cores,
            "load_average": round(os.getloadavg()[0], 1),
            "gpu": GPU,
            "pack": {"name": manifest.name, "version": manifest.version, "sha256": opened.sha256},
            "rows": rows,
            "against_fp32": against_fp32(rows),
        },
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--targets", default="SM86,SM89,SM120", help="SM86,SM89,...")
    parser.add_argument("--backbones", default="", help="untrained classifiers instead: resnet50,...")
    parser.add_argument("--variants", default="", help="of them: transverse,fusion2,...; all if absent")


def minutes(given: Mapping[str, Any]) -> float:
    """About 20 s a target, or two minutes a backbone and target."""
    backbones = len(list(filter(None, given["backbones"].split(","))))
    return len(given["targets"].split(",")) * (2 * backbones or 1 / 3)


TABLE = Table(
    "plans", "size, memory and build time of TensorRT plans, built without a GPU", make_table, minutes, arguments
)
