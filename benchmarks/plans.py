"""TensorRT plans of a pack's networks for several GPUs, built without one: size, memory and time of each."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import conditions, write_csv, write_json
from scanside.engine.capabilities import capabilities
from scanside.engine.tensorrt.cache import PlanCache
from scanside.engine.tensorrt.module import require
from scanside.engine.tensorrt.plans import PlanRow, build_pack, targets_from
from scanside.pack import load_pack


def profile_rows(row: PlanRow) -> list[dict[str, Any]]:
    """One row for each profile of a plan; sizes in bytes. `shape` is the profile's largest."""
    key, record = row.plan.key, row.plan.record
    profiles = json.loads(key.options)["profiles"]
    return [
        {
            "network": key.network,
            "precision": key.precision,
            "target": row.target,
            "shape": "x".join(map(str, next(iter(profile.values()))[2])),
            "activation_bytes": activation,
            "weight_bytes": record.weight_bytes,
            "plan_bytes": row.plan.bytes,
            "layers": len(record.layers),
            "unfolded_weights": record.folded_weights,
            "build_seconds": record.seconds,
        }
        for profile, activation in zip(profiles, record.activation_bytes, strict=True)
    ]


def against_fp32(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Activation, weight and plan bytes of every other precision over fp32's, network, target and shape alike."""
    whole = {(r["network"], r["target"], r["shape"]): r for r in rows if r["precision"] == "fp32"}
    ratios = []
    for row in rows:
        reference = whole.get((row["network"], row["target"], row["shape"]))
        if row["precision"] != "fp32" and reference is not None:
            sizes = ("activation_bytes", "weight_bytes", "plan_bytes")
            named = {key: row[key] for key in ("network", "precision", "target", "shape")}
            ratios.append({**named, **{size: round(row[size] / reference[size], 3) for size in sizes}})
    return ratios


def make_table(*, out: Path, pack: Path | None, targets: str) -> None:
    """Build every precision the pack has graphs of, for every target, in a folder that is thrown away."""
    names = targets_from(targets)
    opened = load_pack(pack)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for row in build_pack(opened, targets=names, cache=PlanCache(Path(folder) / "plans")):
            rows += profile_rows(row)
            for line in rows[-len(row.plan.record.activation_bytes) :]:
                print(" ".join(f"{key}={value}" for key, value in line.items()), flush=True)
    machine, trt = capabilities(), require(names[0])
    stem = f"plans-{opened.manifest.name}-{opened.manifest.version}"
    write_csv(out / f"{stem}.csv", rows)
    write_json(
        out / f"{stem}.json",
        {
            **conditions(),
            trt.name: trt.version,
            "processor": machine.processor,
            "cores": machine.cores,
            "load_average": round(os.getloadavg()[0], 1),
            "gpu": "none: plans are built ahead of time, so nothing here says how fast they run",
            "pack": {"name": opened.manifest.name, "version": opened.manifest.version, "sha256": opened.sha256},
            "rows": rows,
            "against_fp32": against_fp32(rows),
        },
    )
