"""The standard exam, ours against what others would run, in turns on the same cores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contest import BORDERLINE, BOX_MM, CENTROID_MM, PROBABILITY, Contestant, hold, standard_file, summary
from benchmarks.done import Rows
from benchmarks.record import conditions, source_tree, write_csv, write_json
from benchmarks.table import WORK, Table
from scanside.bench.exam import STANDARD_SEED
from scanside.bench.machine import Counters, conditions_name, slowdowns
from scanside.console.options import shape_from
from scanside.engine.capabilities import usable_cores
from scanside.errors import UsageError
from scanside.exam.phantom.make import STANDARD_SHAPE
from scanside.pack import load_pack

OURS = "scanside"
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
    how_arguments(parser)


def contest_arguments(parser: argparse.ArgumentParser) -> None:
    """The exam and how often it runs."""
    parser.add_argument("--shape", type=shape_from, default=shape_from("318x600x800"), help="SWEEPxDEPTHxLATERAL")
    parser.add_argument("--seed", type=int, default=STANDARD_SEED, help="which phantom")
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="threads of every contestant")
    parser.add_argument("--work", type=Path, default=WORK, help="folder where phantoms are kept")


def how_arguments(parser: argparse.ArgumentParser) -> None:
    """How ours runs."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--policy", default="exact")
    parser.add_argument("--allow-uncertified", action="store_true")


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly, from seconds a standard exam takes each of them on two idle cores, and the size of this one."""
    each_s = {"paper": 80.0, "torch-compile": 60.0, "onnxruntime": 25.0, "openvino": 10.0, "cuda-graphs": 2.0}
    share = given["shape"][0] * given["shape"][1] * given["shape"][2] / (318 * 600 * 800)
    names = str(given.get("peers", "")).split(",")
    return 2 + (given["rounds"] + 1) * share * (20 + sum(each_s.get(name, 0.0) for name in names)) / 60


def make_table(
    out: Path,
    pack: Path | None,
    shape: tuple[int, int, int],
    seed: int,
    rounds: int,
    threads: int,
    work: Path,
    peers: str,
    device: str,
    precision: str,
    policy: str,
    allow_uncertified: bool,
) -> None:
    """Write exam-<conditions>.csv, its rounds and its record into `out`."""
    names = [name for name in peers.split(",") if name]
    if unknown := set(names) - set(PEERS):
        raise UsageError("no such peer", expected=" | ".join(PEERS), found=", ".join(sorted(unknown)))
    if rounds < 1:
        raise UsageError("a contest needs a round", found=f"--rounds {rounds}")
    how = {"device": device, "precision": precision, "policy": policy, "allow_uncertified": allow_uncertified}
    exam = standard_file(shape, seed, work)
    name, ran = conditions_here(pack, threads, how)
    name = with_size(name, shape)
    made_with = {**how, **ran, "shape": shape, "seed": seed, "threads": threads, "peers": names, "tree": source_tree()}
    rows = Rows(out / f"exam-{name}-rounds.csv", ("round", "contestant"), made_with)
    contestants = [Contestant(OURS, "scanside", how), *(Contestant(n, PEERS[n][0]) for n in names)]
    before = Counters.read()
    least_score = load_pack(pack).manifest.segmenter.min_detection_score
    outcome = hold(contestants, rows, exam=exam, pack=pack, threads=threads, rounds=rounds, least_score=least_score)
    write_csv(out / f"exam-{name}.csv", summary(outcome, OURS))
    write_json(
        out / f"exam-{name}.json",
        {
            **conditions(),
            **made_with,
            "tolerances": {
                "centroid_mm": CENTROID_MM,
                "box_mm": BOX_MM,
                "probability": PROBABILITY,
                "borderline_score": BORDERLINE,
            },
            "slowdowns": slowdowns(before, Counters.read()),
            "contestants": {
                n: {"is": PEERS[n][1] if n in PEERS else OURS, **said} for n, said in outcome.about.items()
            },
            "left_out": outcome.skipped,
        },
    )
    rows.finish()


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
        record = predictor.device
        device = "cuda" if how["device"] == "cuda" else "cpu"
        name = conditions_name(device, threads, record.precision, predictor.policy)
        return name, {"runtime": record.runtime, "ran_precision": record.precision, "pack": predictor.pack.sha256}


TABLE = Table("exam", "the standard exam, ours against what others would run", make_table, minutes, arguments)
