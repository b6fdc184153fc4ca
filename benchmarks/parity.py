"""Every precision of every network against PyTorch: on phantom lesions, and on real ones of BUS-BRA's fold 1.

What is judged on the cohort is the shipped pack; on BUS-BRA its segmenter, which never saw fold 1, and, given their
packs, a network of one view and `fusion1` of two. Latency is of a batch as the pipeline makes it, all precisions and
ONNX Runtime's CPU provider in FP32 in turn. FP16 is for GPUs; here ONNX Runtime's CPU provider runs the FP16 graph,
which rounds what goes from layer to layer to 16 bits and multiplies in 32: its answers are judged, its time is not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.record import conditions, write_csv, write_json
from benchmarks.table import Table
from scanside.bench.machine import machine_record
from scanside.engine.capabilities import capabilities
from scanside.engine.choice import batch_of, load_network
from scanside.engine.onnxruntime import CPU, Choice, choose
from scanside.exam.planes import Plane
from scanside.pack import Certificate, Pack, load_pack
from scanside.pack.onnx_graph import INT8, Graph
from scanside.parity.networks import EngineNetwork

FOLD = 1
ROUNDS = 9
PRECISIONS = ("fp32", "bf16", "int8")
PLAIN = "onnxruntime fp32"


@dataclass(frozen=True)
class Judging:
    """One pack on one set of cases."""

    name: str
    pack: Pack
    cases: Path
    networks: tuple[str, ...]


def make_table(
    cohort: Path,
    busbra: Path | None,
    view: Path | None,
    two_views: Path | None,
    reference: Path,
    sections: int,
    work: Path,
    out: Path,
    pack: Path | None,
) -> None:
    """Write parity-<conditions>.csv and its record, which holds every certificate, into `out`."""
    from scanside.parity.certify import Settings, judge

    settings = Settings(against="pytorch", precisions=PRECISIONS, sections=sections)
    rows: list[dict[str, Any]] = []
    judged: dict[str, Any] = {}
    shipped = load_pack(pack)
    for one in judgings(shipped, cohort, busbra, view, two_views, work):
        for network in one.networks:
            print(f"{one.name}: {network}", flush=True)
            weights = reference if one.pack is shipped else None
            how = replace(settings, networks=(network,), reference=weights)
            half = HalfNetwork(one.pack, network)
            parity = judge(one.pack, [one.cases], how, work / "answers", besides=[half])
            judged[f"{one.name}: {network}"] = parity.to_json()
            times = latencies(one.pack, network)
            rows += [row_of(one, j.certificate, j.unmet, times) for j in parity.judged]
    machine = machine_record()
    stem = f"parity-cpu-{machine['instructions']}"
    write_csv(out / f"{stem}.csv", rows)
    write_json(out / f"{stem}.json", {**conditions(), "machine": machine, "sections": sections, "judged": judged})


def judgings(
    pack: Pack, cohort: Path, busbra: Path | None, view: Path | None, two_views: Path | None, work: Path
) -> Iterator[Judging]:
    """What is judged on what."""
    yield Judging("phantom lesions", pack, cohort, ("segmenter", "classifier"))
    if busbra is None:
        return
    from benchmarks.busbra_cases import write_cases

    single, pairs = work / "busbra-view", work / "busbra-two-views"
    write_cases(busbra, single, fold=FOLD, two_views=False)
    write_cases(busbra, pairs, fold=FOLD, two_views=True)
    name = f"BUS-BRA fold {FOLD}"
    yield Judging(name, pack, single, ("segmenter",))
    if view is not None:
        yield Judging(f"{name}, one view", load_pack(view), single, ("classifier",))
    if two_views is not None:
        yield Judging(f"{name}, two views", load_pack(two_views), pairs, ("classifier",))


class HalfNetwork(EngineNetwork):
    """A network's FP16 graph on ONNX Runtime's CPU provider."""

    def __init__(self, pack: Pack, network: str) -> None:
        machine = capabilities()
        choice = Choice(CPU, "fp16", "no GPU is needed to see what 16 bits between layers change")
        super().__init__(pack, network, machine, choice, device="cpu", threads=machine.cores)
        self._manifest = pack.manifest
        self._session = cache(lambda: session_of(pack.network_graph(network, "fp16"), machine.cores))

    def segment(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        spec = self._manifest.segmenter
        found = [self._session().run([spec.output], {spec.input: p})[0] for p in batches(pixels, spec.batch)]
        return np.concatenate(found)

    def classify(self, crops: Mapping[Plane, NDArray[np.uint8]]) -> NDArray[np.float32]:
        spec = self._manifest.classifier
        parts = zip(*(batches(crops[Plane(name)], spec.batch) for name in spec.inputs), strict=True)
        found = [
            self._session().run([spec.output], dict(zip(spec.inputs.values(), part, strict=True))) for part in parts
        ]
        return np.concatenate([answer[0].reshape(-1) for answer in found])

    def close(self) -> None:
        self._session.cache_clear()


def batches(pixels: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    """`pixels` in pieces of at most `size`."""
    return [np.ascontiguousarray(pixels[at : at + size]) for at in range(0, len(pixels), size)]


def latencies(pack: Pack, network: str) -> dict[str, float]:
    """Median milliseconds of a batch in each precision, and on ONNX Runtime's CPU provider in FP32, run in turn."""
    machine = capabilities()
    with ExitStack() as stack:
        runs: dict[str, Callable[[], object]] = {}
        for precision in PRECISIONS:
            choice = choose(machine, "cpu", precision, network)
            loaded = load_network(pack, network, choice, device="cpu", threads=machine.cores)
            stack.callback(loaded.close)
            runs[precision] = batch_of(loaded)
            runs[PLAIN] = plain(pack, network, runs[precision].args[0], machine.cores)  # type: ignore[attr-defined]
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(ROUNDS + 1):
            for name, run in runs.items():
                begun = time.perf_counter()
                run()
                samples[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(times[1:]) for name, times in samples.items()}


def plain(pack: Pack, network: str, pixels: Any, threads: int) -> Callable[[], object]:
    """One batch through ONNX Runtime's CPU provider as anyone would run it, weights in FP32."""
    from scanside.export.read_back import fp32_graph

    session = session_of(fp32_graph(pack, network), threads)
    manifest = pack.manifest
    if network == "segmenter":
        feed = {manifest.segmenter.input: pixels}
        outputs = [manifest.segmenter.output]
    else:
        feed = {manifest.classifier.inputs[plane.value]: crops for plane, crops in pixels.items()}
        outputs = [manifest.classifier.output]
    return lambda: session.run(outputs, feed)


def session_of(graph: bytes, threads: int) -> Any:
    """A session of ONNX Runtime's CPU provider, all other settings its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def row_of(one: Judging, found: Certificate, unmet: Sequence[str], times: Mapping[str, float]) -> dict[str, Any]:
    """A row of the table: how far, how fast, and what of the gate is not met."""
    auc, masks, ms = found.auc, found.masks, times.get(found.precision)
    spec = one.pack.manifest.segmenter if found.network == "segmenter" else one.pack.manifest.classifier
    return {
        "data": one.name,
        "network": found.network if found.network == "segmenter" else one.pack.manifest.classifier.variant,
        "precision": found.arithmetic,
        "runtime": found.runtime,
        "lesions": found.lesions,
        "auc": "" if auc is None else round(auc.auc, 4),
        "auc_difference": "" if auc is None else round(auc.difference, 5),
        "delong_low": "" if auc is None else round(auc.delong[0], 5),
        "delong_high": "" if auc is None else round(auc.delong[1], 5),
        "dice": "" if masks is None else round(masks.dice, 4),
        "dice_difference": "" if masks is None else round(masks.dice_difference, 5),
        "hd95_difference_mm": "" if masks is None else round(masks.hd95_difference_mm, 3),
        "probability_mean": round(found.probability.mean, 5),
        "probability_p99": round(found.probability.p99, 4),
        "probability_max": round(found.probability.max, 3),
        "flips": len(found.flips),
        "weights_mb": round(weight_bytes(one.pack, found.network, found.precision) / 1e6, 1),
        "ms_an_item": "" if ms is None else round(ms / spec.batch, 3),
        "times_plain_onnxruntime_fp32": "" if ms is None else round(times[PLAIN] / ms, 2),
        "gate": "met" if not unmet else "; ".join(unmet),
    }


def weight_bytes(pack: Pack, network: str, precision: str) -> int:
    """Bytes of a network's weights as they are multiplied: 4, 2 or 1 each, of rounded operations alone in 8 bits."""
    graph = Graph(pack.network_graph(network, precision), network)
    folded = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 2}[precision]
    total = 0
    for constant in graph.constants:
        count = constant.array().size
        if count > 1:
            total += count if precision == "int8" and constant.data_type == INT8 else count * folded
    return total


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the table takes."""
    parser.add_argument("--cohort", type=Path, required=True, help="folder of `scanside cohort lesions --part parity`")
    parser.add_argument("--busbra", type=Path, default=None, help="folder of BUS-BRA")
    parser.add_argument("--view", type=Path, default=None, help="calibrated pack of one view, fold 1 unseen")
    parser.add_argument("--two-views", type=Path, default=None, help="calibrated pack of fusion1, fold 1 unseen")
    parser.add_argument("--reference", type=Path, default=Path("weights"), help="folder of the pack's weights")
    parser.add_argument("--sections", type=int, default=8, help="most sections a plane of a case")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps the answers")


TABLE = Table(
    "parity",
    "every precision of every network against PyTorch: AUC, Dice, verdicts, size and latency",
    make_table,
    lambda given: 30,
    arguments,
    needs="a cohort of lesions",
)
