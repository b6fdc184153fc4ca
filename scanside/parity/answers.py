"""A network's answers to a cohort, kept on disk case by case: a killed run goes on, and a reference answers once."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scanside.engine.sections import padded_shape
from scanside.errors import OutputError
from scanside.exam.planes import Plane
from scanside.exam.write import atomic_file
from scanside.pack import Manifest
from scanside.parity.cohort import Case, Cohort
from scanside.parity.networks import Answering, key_of

MOST_SHAPES = 6
"""A session is made for every section size; where a cohort has more sizes, they are padded to coarser ones."""

OnCase = Callable[[int, int], None]


class Question:
    """What a network of one pack is asked about a case: the same for every precision and for the reference.

    Parameters
    ----------
    sections : int
        The most sections a plane of a case.
    """

    def __init__(self, manifest: Manifest, network: str, cohort: Cohort, sections: int) -> None:
        self.manifest = manifest
        self.network = network
        self.cohort = cohort
        self.sections = sections
        self.planes = (
            cohort.section_planes(manifest.segmenter.planes)
            if network == "segmenter"
            else tuple(plane for plane in Plane if plane.value in manifest.classifier.inputs)
        )
        self.multiple = self._multiple()

    @property
    def rule(self) -> dict[str, Any]:
        """Plain JSON: what decides the pixels asked about, the case aside."""
        planes = [plane.value for plane in self.planes]
        if self.network == "segmenter":
            return {"planes": planes, "sections": self.sections, "multiple": self.multiple}
        spec = self.manifest.classifier
        return {"planes": planes, "size": spec.size, "margin": spec.margin}

    def ask(self, network: Answering, case: Case) -> dict[str, NDArray]:
        """The answers by name: for a segmenter uint8 [n, rows, columns] a plane, else `probability` [lesion, frame]."""
        if self.network == "classifier":
            probability = network.classify(case.triplets(self.manifest.classifier))
            return {"probability": probability.reshape(len(case.malignant), -1)}
        answers = {}
        for plane in (p for p in self.planes if p in case.section_shapes):
            images = case.sections(plane, self.sections).images
            count, rows, columns = images.shape
            pixels = np.zeros((count, 1, *padded_shape((rows, columns), self.multiple)), np.uint8)
            pixels[:, 0, :rows, :columns] = images
            answers[plane.value] = np.ascontiguousarray(network.segment(pixels)[:, 0, :rows, :columns])
        return answers

    def _multiple(self) -> int:
        shapes = {shape for case in self.cohort.cases for p, shape in case.section_shapes.items() if p in self.planes}
        multiple = self.manifest.segmenter.size_multiple
        while len({padded_shape(shape, multiple) for shape in shapes}) > MOST_SHAPES:
            multiple *= 2
        return multiple


class Answers:
    """The answers of one network, in a folder of their own under `work`.

    Raises
    ------
    OutputError
        The folder cannot be made.
    """

    def __init__(self, network: Answering, question: Question, work: Path) -> None:
        self.network = network
        self.question = question
        key = hashlib.sha256(f"{key_of(network)}\n{json.dumps(question.rule, sort_keys=True)}".encode()).hexdigest()
        self.folder = work / f"{network.network}-{key[:24]}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError("the answers cannot be kept", where=work, found=error.strerror) from None

    def complete(self, progress: OnCase | None = None) -> None:
        """Ask about every case that has no answer yet."""
        cases = self.question.cohort.cases
        try:
            for done, case in enumerate(cases, start=1):
                if self._stored(case) is None:
                    self._ask(case)
                if progress is not None:
                    progress(done, len(cases))
        finally:
            self.network.close()

    def of(self, case: Case) -> Mapping[str, NDArray]:
        """The answers to one case."""
        stored = self._stored(case)
        return self._ask(case) if stored is None else stored

    def _ask(self, case: Case) -> dict[str, NDArray]:
        answers = self.question.ask(self.network, case)
        with atomic_file(self._file(case)) as stream:
            np.savez_compressed(stream, **answers)  # type: ignore[arg-type]
        return answers

    def _stored(self, case: Case) -> dict[str, NDArray] | None:
        try:
            with np.load(self._file(case), allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None  # not there, or damaged: asked again

    def _file(self, case: Case) -> Path:
        return self.folder / f"{case.sha256[:32]}.npz"


def planes_of(answers: Mapping[str, NDArray]) -> tuple[Plane, ...]:
    """The planes a segmenter answered."""
    return tuple(Plane(name) for name in answers)
