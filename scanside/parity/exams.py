"""Whole exams through both precisions, end to end, and their lesions matched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scanside.engine.predictor import Predictor
from scanside.errors import ExamReadError, OutputError
from scanside.evaluation.matching import match_truth
from scanside.exam.open import open_exam
from scanside.exam.phantom.seeds import phantoms_named
from scanside.exam.volume import Volume
from scanside.exam.write import atomic_file
from scanside.pack import Pack
from scanside.report.json import from_json, report_text, to_json
from scanside.report.model import Lesion

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExamSource:
    """One volume, opened or made when its turn comes. `key` tells it from any other."""

    name: str
    key: str
    open: Callable[[], Volume]


@dataclass(frozen=True)
class ExamDifference:
    """The lesions of one exam in two precisions, matched by `scanside.evaluation.matching`.

    `only_reference` and `only_here` count lesions found by one alone; the differences, this precision minus the
    reference, and the flipped verdicts are of matched ones.
    """

    exam: str
    matched: int
    only_reference: int
    only_here: int
    centroid_mm: tuple[float, ...]
    probability: tuple[float, ...]
    flips: int


def exam_sources(texts: Sequence[str]) -> list[ExamSource]:
    """What `--exams` names: files, folders or zips, or `phantom:FIRST:END[:SWEEPxDEPTHxLATERAL]`.

    Raises
    ------
    UsageError
        A phantom range that is none.
    ExamReadError
        A path that holds no usable exam.
    """
    sources: list[ExamSource] = []
    for text in texts:
        sources += _phantoms(text) if text.startswith("phantom:") else _volumes(Path(text))
    return sources


def compare_exams(
    pack: Pack,
    sources: Sequence[ExamSource],
    precision: str,
    *,
    device: str,
    threads: int | None,
    work: Path,
    progress: Progress | None = None,
) -> tuple[ExamDifference, ...]:
    """Every exam in `precision` on `device` against the engine's FP32 on the processor.

    Raises
    ------
    ScansideError
        The precision cannot run here, or an exam cannot be read.
    """
    found = dict(_analyzed(pack, sources, device, precision, threads, work, progress))
    reference = dict(_analyzed(pack, sources, "cpu", "fp32", threads, work, None))
    return tuple(difference(source.name, found[source.key], reference[source.key]) for source in sources)


def difference(exam: str, found: Sequence[Lesion], reference: Sequence[Lesion]) -> ExamDifference:
    """The lesions of two reports of one exam, matched."""
    matches = match_truth(found, reference)
    known = {lesion.id: lesion for lesion in reference}
    pairs = [match for match in matches.truth if match.found]
    return ExamDifference(
        exam,
        len(pairs),
        matches.n_truth - len(pairs),
        matches.n_false_positives,
        tuple(float(m.centroid_error_mm or 0) for m in pairs),
        tuple(float(m.probability or 0) - known[m.truth_id].probability for m in pairs),
        sum(m.called_malignant != m.malignant for m in pairs),
    )


def _analyzed(
    pack: Pack,
    sources: Sequence[ExamSource],
    device: str,
    precision: str,
    threads: int | None,
    work: Path,
    progress: Progress | None,
) -> Iterator[tuple[str, tuple[Lesion, ...]]]:
    """The lesions of each exam, from `work` where they are kept already."""
    with Predictor(pack, device, precision, threads, allow_uncertified=True) as predictor:
        ran = predictor.device
        networks = {name: [network.runtime, network.precision] for name, network in ran.networks.items()}
        run = json.dumps([pack.sha256, networks, ran.name], sort_keys=True)
        folder = work / f"exams-{hashlib.sha256(run.encode()).hexdigest()[:24]}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError("the answers cannot be kept", where=work, found=error.strerror) from None
        for done, source in enumerate(sources, start=1):
            file = folder / f"{hashlib.sha256(source.key.encode()).hexdigest()[:32]}.json"
            content = _kept(file)
            if content is None:
                content = to_json(predictor.analyze(source.open()))
                with atomic_file(file) as stream:
                    stream.write(report_text(content).encode())
            if progress is not None:
                progress(done, len(sources))
            yield source.key, from_json(content).lesions


def _kept(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        from_json(content)
    except (OSError, ValueError, ExamReadError):
        return None  # not there, or damaged: analysed again
    return content


def _volumes(path: Path) -> list[ExamSource]:
    exam = open_exam(path)
    stamp = hashlib.sha256()
    for file in sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()):
        with file.open("rb") as stream:
            stamp.update(hashlib.file_digest(stream, "sha256").digest())
    return [
        ExamSource(Path(volume.info.source).name, f"{stamp.hexdigest()} {number}", lambda volume=volume: volume)  # type: ignore[misc]
        for number, volume in enumerate(exam.volumes)
    ]


def _phantoms(text: str) -> list[ExamSource]:
    seeds, shape = phantoms_named(text, "--exams")
    return [
        ExamSource(f"phantom {seed}", f"phantom {seed} {shape}", lambda seed=seed: _phantom(seed, shape))  # type: ignore[misc]
        for seed in seeds
    ]


def _phantom(seed: int, shape: tuple[int, ...] | None) -> Volume:
    from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE, make_phantom

    phantom = make_phantom(seed, shape=shape or STANDARD_SHAPE, extent_mm=STANDARD_EXTENT_MM)  # type: ignore[arg-type]
    return Volume.from_array(phantom.voxels, phantom.geometry.spacing_mm, source=f"phantom {seed}")
