"""From a pack to the same pack with 8-bit activations: select, observe, place, compare, write."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from scanside.calibration.agreement import compare
from scanside.calibration.blocks import blocks_of
from scanside.calibration.data import Amount, CalibrationData, Source, prepare
from scanside.calibration.estimators import ESTIMATORS
from scanside.calibration.graph import load_graph
from scanside.calibration.half import measure_half
from scanside.calibration.observe import Batch, observe, run_batch, session
from scanside.calibration.placement import Placement, plan_placement, scales_of, with_pairs
from scanside.calibration.ranges import SCHEMA, Ranges, estimate, read_ranges
from scanside.errors import CalibrationError, OutputError, UsageError
from scanside.pack import Certificate, DerivedGraph, ExportCheck, Manifest, Pack, file_records, write_pack
from scanside.pack.derive import derived_graph
from scanside.pack.manifest import NETWORKS
from scanside.pack.write import refuse_foreign

METHODS = tuple(ESTIMATORS)
SELECTION_FILE = "calibration.selection.json"
HALF_BATCHES = 6
"""Batches of each network on which half precision is judged."""
SECTION_BATCH, TRIPLET_BATCH = 4, 4

Stages = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """How to calibrate.

    `keep` names blocks of each network (see `blocks_of`) that stay in higher precision. The ranges of a network whose
    file lies in the folder `ranges` are taken as they are.
    """

    method: Mapping[str, str] = field(default_factory=lambda: {"segmenter": "mse", "classifier": "entropy"})
    amount: Amount = field(default_factory=Amount)
    keep: Mapping[str, Collection[str]] = field(default_factory=dict)
    test_cases: Collection[str] = ()
    ranges: Path | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.method.values()) - set(METHODS))
        if unknown:
            raise UsageError("unknown method", where="--method", expected=" | ".join(METHODS), found=unknown[0])


@dataclass(frozen=True)
class NetworkResult:
    """One network calibrated: where it rounds, its ranges and by what method, and how INT8 and FP16 answer."""

    network: str
    placement: Placement
    ranges: Ranges
    method: str
    """One of `METHODS`, or "ranges given"."""
    int8: ExportCheck
    fp16: ExportCheck
    kept_in_fp32: tuple[str, ...]


@dataclass(frozen=True)
class Calibrated:
    """The pack that was written, what was measured on the way, and the certificates that it keeps."""

    pack: Path
    networks: tuple[NetworkResult, ...]
    certificates: tuple[Certificate, ...]


def ranges_file(network: str) -> str:
    """The name of a network's ranges in a pack."""
    return f"{network}.ranges.json"


def work_folder(out: str | os.PathLike[str]) -> Path:
    """Where an unfinished calibration of `out` keeps its state, beside it."""
    out = Path(out)
    return out.with_name(f".{out.name}.calibrating")


def calibrate(
    pack: Pack,
    sources: Sequence[Source],
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    stages: Stages | None = None,
) -> Calibrated:
    """Write to `out` the pack with 8-bit activations, its ranges and selection. It appears whole or not at all.

    What was cut and counted is kept beside `out` until the pack is written: a killed run, started again with the same
    pack, data and settings, goes on where it was. Certificates of the pack hold where calibration gives the very graph
    that they name.

    Raises
    ------
    CalibrationError
        Data that cannot be used (see `prepare`, `observe`), no ranges where they are to be, or of another graph.
    UsageError
        A block to keep that the network does not have.
    PackError
        A graph that cannot be calibrated.
    OutputError
        `out` holds something that is no pack, or cannot be written.
    """
    out, work = Path(out), work_folder(out)
    require_room(out)
    for network in NETWORKS:  # what cannot be calibrated is refused before any exam is opened
        _kept_operations(load_graph(pack.graph_bytes(network), network), network, settings.keep.get(network, ()))
    given = _given(settings.ranges)
    say = stages or (lambda stage, done, total: None)
    data = prepare(
        sources,
        pack.manifest,
        settings.amount,
        work / _key(pack, settings),
        test_cases=settings.test_cases,
        progress=lambda done, total: say("select", done, total),
    )
    contents = {name: pack.file_bytes(name) for name in pack.manifest.files}
    results, derived, graphs = [], [], {}
    for network in NETWORKS:
        result, graph, half = _calibrate_network(pack, network, data, settings, given.get(network), work, say)
        results.append(result)
        derived += _derived(network, graph, half)
        graphs[network] = graph
        contents[ranges_file(network)] = result.ranges.to_json()
    contents[pack.manifest.segmenter.graph] = graphs["segmenter"]
    contents[pack.manifest.classifier.graph] = graphs["classifier"]
    contents[SELECTION_FILE] = data.selection.to_json()
    manifest = _manifest(pack, contents, results, derived, settings, data)
    written = write_pack(out, contents, manifest)
    shutil.rmtree(work, ignore_errors=True)
    return Calibrated(written, tuple(results), manifest.certificates)


def _calibrate_network(
    pack: Pack, network: str, data: CalibrationData, settings: Settings, given: Path | None, work: Path, say: Stages
) -> tuple[NetworkResult, bytes, DerivedGraph]:
    fp32 = derived_graph(pack.graph_bytes(network), "fp32", where=network)
    model = load_graph(fp32, network)
    placement = plan_placement(model, _kept_operations(model, network, settings.keep.get(network, ())))
    if not placement.points:
        raise CalibrationError(
            "nothing of this network can run in 8 bits",
            where=network,
            found="; ".join(sorted(set(placement.refused.values()))) or "no weighted operation",
        )
    batches = network_batches(pack.manifest, network, data)
    graph_sha, selection_sha = (hashlib.sha256(b).hexdigest() for b in (fp32, data.selection.to_json()))
    if given is not None:
        ranges = read_ranges(given, network=network, graph_sha256=graph_sha)
    else:
        histograms = observe(
            model,
            placement.tensors,
            batches,
            state=work / f"{network}-{_digest(graph_sha, selection_sha, *placement.tensors)}.npz",
            progress=lambda done, total: say(f"observe {network}", done, total),
            threads=settings.threads,
        )
        samples = len(data.selection.sections if network == "segmenter" else data.selection.triplets)
        rows = estimate(histograms, settings.method[network], samples)
        ranges = Ranges(SCHEMA, network, graph_sha, selection_sha, rows)
    rounded = with_pairs(model, placement, scales_of(placement, ranges.amax))
    onnx.checker.check_model(rounded, full_check=True)
    int8 = rounded.SerializeToString(deterministic=True)
    judged = batches[:: max(1, len(batches) // HALF_BATCHES)][:HALF_BATCHES]
    spec = pack.manifest.segmenter if network == "segmenter" else pack.manifest.classifier
    threshold = pack.manifest.segmenter.threshold if network == "segmenter" else None
    say(f"compare {network}", 0, 2)
    check = compare(
        network,
        "INT8 graph",
        "FP32 graph",
        answers(int8, spec.output, judged, settings.threads),
        answers(fp32, spec.output, judged, settings.threads),
        threshold=threshold,
    )
    say(f"compare {network}", 1, 2)
    half = measure_half(network, model, spec.output, judged, threshold=threshold, threads=settings.threads)
    say(f"compare {network}", 2, 2)
    method = "ranges given" if given is not None else settings.method[network]
    result = NetworkResult(network, placement, ranges, method, check, half.check, half.keep)
    return result, int8, DerivedGraph(network, "fp16", half.sha256, half.keep)


def _given(folder: Path | None) -> dict[str, Path]:
    """The files of the ranges that are given, by network."""
    if folder is None:
        return {}
    files = {network: folder / ranges_file(network) for network in NETWORKS}
    given = {network: file for network, file in files.items() if file.exists()}
    if not given:
        expected = " or ".join(file.name for file in files.values())
        raise CalibrationError("no ranges to take", where=folder, expected=expected, remedy="check --ranges")
    return given


def _kept_operations(model: onnx.ModelProto, network: str, blocks: Collection[str]) -> list[str]:
    known = blocks_of(model)
    unknown = sorted(set(blocks) - set(known))
    if unknown:
        found = f"{network}:{unknown[0]}"
        raise UsageError("no such block to keep", where="--keep", expected=", ".join(known), found=found)
    return [node for block in blocks for node in known[block]]


def network_batches(manifest: Manifest, network: str, data: CalibrationData) -> list[Callable[[], Batch]]:
    """The calibration batches of one network, by its input names."""
    if network == "segmenter":
        return data.section_batches(manifest.segmenter.input, SECTION_BATCH)
    return data.triplet_batches(dict(manifest.classifier.inputs), TRIPLET_BATCH)


def answers(
    graph: bytes, output: str, batches: Sequence[Callable[[], Batch]], threads: int = 0
) -> list[NDArray[np.generic]]:
    """What a graph answers to the batches on the CPU, rounding simulated as written."""
    runtime = session(graph, threads)
    return [run_batch(runtime, [output], make())[0] for make in batches]


def _derived(network: str, int8: bytes, half: DerivedGraph) -> list[DerivedGraph]:
    """Every precision's hash. The rounded graph keeps in FP32 what the half-precision one keeps."""
    rows = [half]
    for precision, keep in (("fp32", ()), ("bf16", ()), ("int8", ()), ("int8-u8", ()), ("int8-fp16", half.keep)):
        graph = derived_graph(int8, precision, keep, where=network)
        rows.append(DerivedGraph(network, precision, hashlib.sha256(graph).hexdigest(), tuple(keep)))
    return rows


def _manifest(
    pack: Pack,
    contents: Mapping[str, bytes],
    results: Sequence[NetworkResult],
    derived: Sequence[DerivedGraph],
    settings: Settings,
    data: CalibrationData,
) -> Manifest:
    before = pack.manifest
    checks = [c for c in before.checks if not c.compared.startswith(("INT8", "FP16"))]
    for result in results:
        checks += [result.int8, result.fp16]
    calibration: dict[str, Any] = {
        "from_pack": pack.sha256,
        "method": {result.network: result.method for result in results},
        "amount": asdict(settings.amount),
        "sections": len(data.selection.sections),
        "triplets": len(data.selection.triplets),
        "selection": SELECTION_FILE,
        "ranges": [ranges_file(result.network) for result in results],
        "kept_in_16_bit": {r.network: sorted(settings.keep.get(r.network, ())) for r in results},
    }
    same = {(graph.network, graph.sha256) for graph in derived}
    return replace(
        before,
        version=before.version if before.version.endswith("+int8") else f"{before.version}+int8",
        precisions=tuple(dict.fromkeys((*before.precisions, "fp16", "int8"))),
        checks=tuple(checks),
        provenance={**before.provenance, "calibration": calibration},
        certificates=tuple(c for c in before.certificates if (c.network, c.graph_sha256) in same),
        derived=tuple(derived),
        files=file_records(contents),
    )


def require_room(out: Path) -> None:
    """Make the folder that `out` is to lie in.

    Raises
    ------
    OutputError
        That cannot be done, or `out` holds something that is no pack.
    """
    refuse_foreign(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("the pack cannot be written", where=out, found=error.strerror) from None


def _key(pack: Pack, settings: Settings) -> str:
    return "data-" + _digest(pack.sha256, repr(settings.amount))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
