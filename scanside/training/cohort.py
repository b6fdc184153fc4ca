"""Cohorts: what training needs of many volumes, one compact file each (see `scanside.training.cutting`)."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from scanside.errors import UsageError
from scanside.exam.write import atomic_file
from scanside.training.cutting import AnnotatedVolume, CohortSettings, Origin, volume_arrays

logger = logging.getLogger(__name__)

MakePhantom = Callable[[int, int], AnnotatedVolume]
"""A phantom from (seed, number of lesions)."""
OnCase = Callable[[int, int], None]
"""Called with (cases done, cases)."""
PHANTOM = "phantom"
CASES_A_PROCESS = 8
"""How many cases, on average, a process makes before its memory is given back."""


class Job(Protocol):
    """What makes the file of one case; it is sent to another process."""

    @property
    def number(self) -> int:
        """Its place in the cohort, and in the file's name."""

    @property
    def made_with(self) -> dict[str, Any]:
        """What its file must have been made with, beside the settings."""

    def arrays(self, settings: CohortSettings) -> dict[str, NDArray]:
        """The arrays of the file, by name."""


@dataclass(frozen=True)
class PhantomMaker:
    """Makes phantoms on one thread; another shape keeps the standard voxel size, so the extent follows."""

    shape: tuple[int, int, int] | None = None

    def __call__(self, seed: int, lesions: int) -> AnnotatedVolume:
        """The phantom of `seed` with `lesions` lesions."""
        from scanside.exam.phantom import make_phantom
        from scanside.exam.phantom.make import STANDARD_EXTENT_MM, STANDARD_SHAPE

        shape = self.shape or STANDARD_SHAPE
        extent = [mm * n / standard for mm, n, standard in zip(STANDARD_EXTENT_MM, shape, STANDARD_SHAPE, strict=True)]
        return make_phantom(seed, shape=shape, extent_mm=tuple(extent), lesions=lesions, threads=1)  # type: ignore[arg-type]


STANDARD_PHANTOM = PhantomMaker()
"""Full-size phantoms."""


@dataclass(frozen=True)
class _PhantomJob:
    number: int
    lesions: int
    make: MakePhantom

    @property
    def made_with(self) -> dict[str, Any]:
        return {}

    def arrays(self, settings: CohortSettings) -> dict[str, NDArray]:
        origin = Origin(PHANTOM, f"phantom {self.number}", f"phantom {self.number}")
        return volume_arrays(self.make(self.number, self.lesions), self.number, settings, origin)


def cohort_file(folder: str | Path, number: int) -> Path:
    """Where the case of `number` (a phantom's seed) lies."""
    return Path(folder) / f"phantom-{number:06d}.npz"


def lesion_count(seed: int, lesions: tuple[int, int]) -> int:
    """How many lesions the phantom of `seed` is asked for, between both ends of `lesions`."""
    low, high = lesions
    return int(np.random.default_rng([seed, 71]).integers(low, high + 1))


def build_cohort(
    out: str | Path,
    seeds: Iterable[int],
    *,
    workers: int = 2,
    lesions: tuple[int, int] = (2, 9),
    settings: CohortSettings | None = None,
    make: MakePhantom = STANDARD_PHANTOM,
    progress: OnCase | None = None,
) -> list[Path]:
    """Make the phantoms of `seeds` and store what training needs of them, one file a seed; see `build_files`.

    Parameters
    ----------
    lesions : (int, int)
        Fewest and most lesions a phantom; the number is drawn by the seed.
    make : callable
        A phantom from (seed, lesions); replaced in tests.
    progress : callable, optional
        Called with (phantoms done, phantoms).

    Raises
    ------
    UsageError
        A lesion range that is none, or files made with other settings in `out`.
    """
    if not 0 <= lesions[0] <= lesions[1]:
        raise UsageError("the lesion range is none", expected="FEWEST:MOST", found=f"{lesions[0]}:{lesions[1]}")
    jobs = [_PhantomJob(s, lesion_count(s, lesions), make) for s in dict.fromkeys(int(s) for s in seeds)]
    return build_files(out, jobs, workers=workers, settings=settings or CohortSettings(), progress=progress)


def build_files(
    out: str | Path,
    jobs: Sequence[Job],
    *,
    workers: int,
    settings: CohortSettings,
    progress: OnCase | None = None,
) -> list[Path]:
    """The files of `jobs` in the folder `out`, in their order.

    Files that stand are left alone, files are written whole or not at all, and they are made by `workers` processes at
    once (0 makes them in this process).

    Raises
    ------
    UsageError
        A file there was made with other settings.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    files = [cohort_file(out, job.number) for job in jobs]
    todo = []
    for job, file in zip(jobs, files, strict=True):
        if file.is_file():
            _check_settings(file, asdict(settings) | job.made_with)
        else:
            todo.append((file, job, settings))
    done = len(jobs) - len(todo)
    if progress is not None and done:
        progress(done, len(jobs))
    for _ in _built(todo, workers):
        done += 1
        logger.info("case %d of %d stored", done, len(jobs))
        if progress is not None:
            progress(done, len(jobs))
    return files


def _built(todo: list[tuple[Path, Job, CohortSettings]], workers: int) -> Iterator[None]:
    if workers < 1:
        for item in todo:
            _store(*item)
            yield
        return
    # A process that made full-size volumes keeps their memory, so every few cases there are new ones, which costs
    # little. They are a new pool's: with max_tasks_per_child, CPython 3.11's pool can wait for ever for a process that
    # has ended.
    for first in range(0, len(todo), workers * CASES_A_PROCESS):
        yield from _built_by_one_pool(todo[first : first + workers * CASES_A_PROCESS], workers)


def _built_by_one_pool(todo: list[tuple[Path, Job, CohortSettings]], workers: int) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_as_worker) as pool:
        waiting = [pool.submit(_store, *item) for item in todo]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()


def _as_worker() -> None:
    """One thread, and Ctrl-C left to the parent, which waits for what is being made."""
    cv2.setNumThreads(1)
    threadpool_limits(1)  # NumPy's matrix products: with a thread a core in each process they take twice as long
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _store(file: Path, job: Job, settings: CohortSettings) -> None:
    arrays = job.arrays(settings)
    with atomic_file(file) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def _check_settings(file: Path, settings: dict[str, Any]) -> None:
    from scanside.training.cohort_data import read_meta

    found = read_meta(file)["settings"]
    differ = sorted(k for k in found.keys() | settings.keys() if found.get(k) != settings.get(k))
    if differ:
        raise UsageError(
            "the cohort here was made with other settings",
            where=file,
            found=f"other {', '.join(differ)}",
            remedy="use another --out",
        )
