"""The standard exam, ours against what others would run, in turns on the same cores."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from benchmarks.contest import (
    BORDERLINE,
    BOX_MM,
    CENTROID_MM,
    PROBABILITY,
    Contestant,
    hold,
    stages,
    standard_file,
    summary,
    without_stages,
)
from benchmarks.done import Rows
from benchmarks.record import conditions, source_tree, write_csv, write_json
from benchmarks.table import WORK, Table
from scanside.bench.exam import STANDARD_SEED
from scanside.bench.machine import Counters, slowdowns
from scanside.bench.plan import conditions_of
from scanside.console.options import shape_from
from scanside.engine.capabilities import usable_cores
from scanside.engine.pipeline import POLICIES
from scanside.errors import UsageError
from scanside.exam.phantom.make import STANDARD_SHAPE
from scanside.pack import load_pack

PEERS = {
    "paper": ("paper", "eager PyTorch FP32, serial, pixel_array"),
    "torch-compile": ("compiled", "the same through torch.compile"),
    "onnxruntime": ("plain_onnx", "a plain ONNX Runtime FP32 loop"),
    "openvino": ("openvino_async", "OpenVINO's own API, asynchronous, throughput hint, default precision"),
    "cuda-graphs": ("cuda_graphs", "PyTorch FP16 with CUDA graphs on a GPU"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    contest_arguments(parser)
    parser.add_argument("--peers", default=",".join(PEERS), help="which, by comma")
    parser.add_argument("--policies", default=",".join(POLICIES), help="ours under which, by comma")
    device_arguments(parser)


def contest_arguments(parser: argparse.ArgumentParser) -> None:
    """The exam and how often it runs."""
    parser.add_argument("--shape", type=shape_from, default=shape_from("318x600x800"), help="SWEEPxDEPTHxLATERAL")
    parser.add_argument("--seed", type=int, default=STANDARD_SEED, help="which phantom")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads of every contestant")
    parser.add_argument("--work", type=Path, default=WORK, help="folder where phantoms are kept")


def how_arguments(parser: argparse.ArgumentParser) -> None:
    """How ours runs."""
    device_arguments(parser)
    parser.add_argument("--policy", choices=POLICIES, default="exact")


def device_arguments(parser: argparse.ArgumentParser) -> None:
    """How ours runs under any policy."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", help="auto is the fastest certified one")
    parser.add_argument("--allow-uncertified", action="store_true")


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly, from seconds a standard exam takes each of them on two idle cores, and the size of this one."""
    each_s = {"paper": 80.0, "torch-compile": 60.0, "onnxruntime": 25.0, "openvino": 10.0, "cuda-graphs": 2.0}
    share = given["shape"][0] * given["shape"][1] * given["shape"][2] / (318 * 600 * 800)
    names = str(given.get("peers", "")).split(",")
    ours_s = 20 if "policy" in given else sum(20.0 if p == "exact" else 10.0 for p in given["policies"].split(","))
    return 2 + (given["rounds"] + 1) * share * (ours_s + sum(each_s.get(name, 0.0) for name in names)) / 60


def make_table(
    out: Path,
    pack: Path | None,
    shape: tuple[int, int, int],
    seed: int,
    rounds: int,
    threads: int,
    work: Path,
    peers: str,
    policies: str,
    device: str,
    precision: str,
    allow_uncertified: bool,
) -> None:
    """Write exam-<conditions>.csv, its stages and its record into `out` for each policy, all of the same rounds."""
    names = named(peers, PEERS, "peer")
    ours = named(policies, POLICIES, "policy")
    if rounds < 1 or not ours:
        raise UsageError("a contest needs a round and a policy", found=f"--rounds {rounds} --policies {policies!r}")
    how = {"device": device, "precision": precision, "allow_uncertified": allow_uncertified}
    exam = standard_file(shape, seed, work)
    stems, ran = {}, {}
    for policy in ours:
        name, ran = conditions_here(pack, threads, {**how, "policy": policy})
        stems[policy] = f"exam-{with_size(name, shape)}"
    made_with = {**how, **ran, "shape": shape, "seed": seed, "threads": threads, "tree": source_tree()}
    rounds_file = out / f"{stems[ours[0]].replace(f'-{ours[0]}', '')}-rounds.csv"
    rows = Rows(rounds_file, ("round", "contestant"), {**made_with, "peers": names, "policies": ours})
    contestants = [
        *(Contestant(f"scanside {p}", "scanside", {**how, "policy": p}, policy=p) for p in ours),
        *(Contestant(n, PEERS[n][0]) for n in names),
    ]
    before = Counters.read()
    least_score = load_pack(pack).manifest.segmenter.min_detection_score
    outcome = hold(contestants, rows, exam=exam, pack=pack, threads=threads, rounds=rounds, least_score=least_score)
    during = slowdowns(before, Counters.read())
    for policy, stem in stems.items():
        us = f"scanside {policy}"
        part = outcome.of((us, *names))
        write_csv(out / f"{stem}.csv", summary(part, us))
        write_csv(out / f"{stem}-stages.csv", stages(part, (us,)))
        write_json(
            out / f"{stem}.json",
            {
                **conditions(),
                **made_with,
                "policy": policy,
                "rounds": rounds,
                "peers_look_at": "the sections of policy exact, and must find its lesions",
                "tolerances": {
                    "centroid_mm": CENTROID_MM,
                    "box_mm": BOX_MM,
                    "probability": PROBABILITY,
                    "borderline_score": BORDERLINE,
                },
                "slowdowns": during,
                "contestants": {
                    n: {"is": PEERS[n][1] if n in PEERS else "ours", **said} for n, said in part.about.items()
                },
                "left_out": part.skipped,
            },
        )
    rows.finish(without_stages(rows.rows))


def named(text: str, known: Collection[str], what: str) -> list[str]:
    """Names by comma.

    Raises
    ------
    UsageError
        One is unknown.
    """
    names = [name for name in text.split(",") if name]
    if unknown := set(names) - set(known):
        raise UsageError(f"no such {what}", expected=" | ".join(known), found=", ".join(sorted(unknown)))
    return names


def with_size(name: str, shape: tuple[int, int, int]) -> str:
    """A results file's name: of the standard exam as it is, of another one with its shape."""
    return name if shape == STANDARD_SHAPE else f"{name}-{'x'.join(map(str, shape))}"


def conditions_here(pack: Path | None, threads: int, how: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The conditions' name and what runs, from a predictor that is loaded and closed again.

    Raises
    ------
    ScansideError
        As `scanside.load`.
    """
    import scanside

    with scanside.load(pack, threads=threads, **how) as predictor:
        said = conditions_of(predictor)
    return said["name"], {
        "runtime": said["runtime"],
        "ran_precision": said["precision"],
        "fallbacks": said["fallbacks"],
        "pack": said["pack"]["sha256"],
    }


TABLE = Table("exam", "the standard exam, ours against what others would run", make_table, minutes, arguments)
