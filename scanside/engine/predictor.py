"""The door of the library: a pack loaded once, then any number of exams, from any number of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

import scanside
from scanside.engine.capabilities import capabilities
from scanside.engine.choice import fastest_choice, load_network
from scanside.engine.flow import Progress
from scanside.engine.heap import return_freed_memory, share_arenas
from scanside.engine.live import Session
from scanside.engine.networks import Classifier, require_heatmaps
from scanside.engine.parity import allowed
from scanside.engine.pipeline import EXPLANATIONS, POLICIES, Findings, OnLesions, find_lesions
from scanside.engine.runtime import Runtime, without_folders
from scanside.errors import EngineError, ExamReadError, GeometryError, ScansideError, UsageError
from scanside.exam.geometry import Geometry
from scanside.exam.volume import Exam, Refusal, Volume, VolumeInfo, Voxels
from scanside.pack import GoldenCase, GoldenResult, Pack, golden_cases, judge_golden, load_pack
from scanside.report.model import DeviceRecord, ExamRecord, NetworkRecord, PackRecord, Report, Timing

Source = str | os.PathLike[str] | Exam | Volume | NDArray[np.uint8]
Spacing = tuple[float, float, float]
OnProgress = Callable[[Progress], object]

# How far a rounded precision may be from the golden answer on average, in parts of the output's full scale.
ROUNDED_MEAN_ERROR = 0.02


@dataclass(frozen=True)
class Study:
    """The reports of an exam's volumes, in order, and the volumes that were refused."""

    reports: tuple[Report, ...]
    refused: tuple[Refusal, ...]


def load(
    pack: str | os.PathLike[str] | Pack | None = None,
    device: str = "auto",
    precision: str = "auto",
    policy: str = "exact",
    threads: int | None = None,
    allow_uncertified: bool = False,
    explain: str = "none",
) -> Predictor:
    """Load a model pack and prove it in place on its golden cases.

    Parameters
    ----------
    pack : path or Pack, optional
        A pack folder; the shipped pack if None.
    device : str
        "auto", "cpu" or "cuda". "cuda" without a usable GPU is an error, never a silent CPU run.
    precision : str
        "auto" (for each network the fastest of fp32 and what is certified, measured here once and remembered in the
        user's cache), "fp32", "bf16", "fp16" or "int8".
    policy : str
        "exact": every section of every plane. "confirm": every transverse section, the other planes only where they
        can confirm, extend or refute what those show (see `scanside.engine.confirm`).
    threads : int, optional
        Threads for networks and decoding; all usable cores if None.
    allow_uncertified : bool
        Run a precision that has no parity certificate.
    explain : str
        "none", or "gradcam": each lesion of a report then has a `heatmap` (see `report.model.Heatmap`).

    Raises
    ------
    PackError
        The pack is damaged or incomplete, or draws no heatmaps and they were asked for.
    EngineError
        What was asked for cannot run here, or the golden answers come out wrong.
    ParityError
        The precision has no certificate.
    NotBuiltError
        bf16 on CUDA.
    UsageError
        An unknown name, or no thread.
    """
    if policy not in POLICIES:
        raise UsageError("unknown policy", expected=" | ".join(POLICIES), found=repr(policy))
    if explain not in EXPLANATIONS:
        raise UsageError("unknown explanation", expected=" | ".join(EXPLANATIONS), found=repr(explain))
    if threads is not None and threads < 1:
        raise UsageError("a run needs at least one thread", found=f"threads={threads}")
    share_arenas()
    opened = pack if isinstance(pack, Pack) else load_pack(pack)
    _refuse_policy(policy, opened)
    predictor = Predictor(opened, device, precision, threads, allow_uncertified, policy, explain)
    try:
        predictor.self_check()
    except BaseException:
        predictor.close()
        raise
    return_freed_memory()
    return predictor


class Predictor:
    """A loaded pack; see `load`. Hold it and use it again: loading costs more than a section.

    All methods may be called from several threads at once. It is a context manager, and `close` frees the networks.
    """

    def __init__(
        self,
        pack: Pack,
        device: str,
        precision: str,
        threads: int | None,
        allow_uncertified: bool = False,
        policy: str = "exact",
        explain: str = "none",
    ) -> None:
        machine = capabilities()
        spec = pack.manifest
        if explain == "gradcam":
            require_heatmaps(spec.classifier)
        self.explain = explain
        self.pack = pack
        self.policy = policy
        self.threads = threads or machine.cores
        candidates = allowed(
            pack, machine, device=device, precision=precision, allow_uncertified=allow_uncertified
        )  # refuses before 100 MB of graphs are loaded
        (segmenter, of_segmenter), (classifier, of_classifier) = (
            fastest_choice(pack, machine, each, device=device, threads=self.threads) for each in candidates
        )
        self._golden = tuple(golden_cases(pack))
        with ThreadPoolExecutor(1) as beside, ExitStack() as loaded:
            loading = beside.submit(load_network, pack, "classifier", classifier, device=device, threads=self.threads)
            loaded.callback(_close_loaded, loading)
            self.segmenter = load_network(pack, "segmenter", segmenter, device=device, threads=self.threads)
            loaded.callback(self.segmenter.close)
            for height, width in _sizes(self._golden):  # the self-check needs their sessions, and exams too
                self.segmenter.runtime(height, width)
            self.classifier = loading.result()
            loaded.pop_all()
        self._chosen = {"segmenter": segmenter, "classifier": classifier}
        self._remarks = (*of_segmenter, *of_classifier)

    @property
    def device(self) -> DeviceRecord:
        """What runs each network, and every fallback."""
        runtimes = (*self.segmenter.runtimes, self.classifier.runtime)
        networks = {
            "segmenter": self._network("segmenter", self.segmenter.runtimes),
            "classifier": self._network("classifier", (self.classifier.runtime,)),
        }
        remarks = (*self._remarks, *(f for r in runtimes for f in r.fallbacks))
        return DeviceRecord(
            runtime=" + ".join(dict.fromkeys(network.runtime for network in networks.values())),
            precision="+".join(dict.fromkeys(network.precision for network in networks.values())),
            policy=self.policy,
            name=self.classifier.runtime.device_name,
            fallbacks=tuple(dict.fromkeys(map(without_folders, remarks))),
            networks=networks,
        )

    def _network(self, network: str, runtimes: Sequence[Runtime]) -> NetworkRecord:
        """What runs a network; before its first session, what will."""
        names = dict.fromkeys(runtime.name for runtime in runtimes) or (self._chosen[network].runtime,)
        precisions = dict.fromkeys(runtime.precision for runtime in runtimes) or (self._chosen[network].precision,)
        return NetworkRecord(" + ".join(names), "+".join(precisions))

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the networks. Runs in progress fail."""
        self.segmenter.close()
        self.classifier.close()

    def analyze(
        self,
        source: Source,
        *,
        spacing_mm: Spacing | None = None,
        progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> Report:
        """Find the lesions of one volume and say of each how likely it is malignant.

        Parameters
        ----------
        source : path, Exam, Volume or uint8 array (sweep, depth, lateral)
            An exam with exactly one volume.
        spacing_mm : tuple of float, optional
            Voxel size (sweep, depth, lateral): required for an array, optional for a path whose header states none.
        progress : callable, optional
            Called with `Progress(stage, done, total)` from the stages' threads, one call at a time.
        cancel : threading.Event, optional
            Set it from anywhere to stop the run.

        Raises
        ------
        ExamReadError
            The exam cannot be read, is refused, or holds several volumes (see `analyze_study`).
        EngineError
            A network failed or gave an unusable answer.
        Cancelled
            `cancel` was set.
        """
        volume = _volume(source, spacing_mm)
        return self.analyze_volume(volume, progress=progress, cancel=cancel)[0]

    def analyze_volume(
        self,
        volume: Volume,
        *,
        progress: OnProgress | None = None,
        on_lesions: OnLesions | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[Report, Voxels]:
        """As `analyze`, for one opened volume; also gives the decoded voxels, for pictures without decoding again.

        `on_lesions` is called with the lesions found so far, surest first, each time they change.
        """
        found = find_lesions(
            volume,
            self.segmenter,
            self.classifier,
            threads=self.threads,
            policy=self.policy,
            explain=self.explain,
            progress=progress,
            on_lesions=on_lesions,
            cancel=cancel,
        )
        return self.report(volume.info, found), found.voxels

    def start(
        self,
        sweep: Geometry | VolumeInfo,
        *,
        progress: OnProgress | None = None,
        on_lesions: OnLesions | None = None,
        cancel: threading.Event | None = None,
    ) -> Session:
        """Begin the analysis of a sweep whose frames are still to come.

        Parameters
        ----------
        sweep : Geometry or VolumeInfo
            Shape and spacing of the whole sweep, known before its first frame.
        progress, cancel : optional
            As for `analyze`.
        on_lesions : callable, optional
            Called, from another thread, with the lesions found so far, surest first, each time they change. Under
            `confirm` that is while the sweep goes on; under `exact` after its last frame.

        Returns
        -------
        Session
            Takes the frames and gives the report.
        """
        info = sweep if isinstance(sweep, VolumeInfo) else VolumeInfo(sweep, "sweep", "the caller's geometry", "live")
        return Session(self, info, progress=progress, on_lesions=on_lesions, cancel=cancel)

    def analyze_study(
        self,
        source: str | os.PathLike[str] | Exam,
        *,
        spacing_mm: Spacing | None = None,
        progress: OnProgress | None = None,
        cancel: threading.Event | None = None,
    ) -> Study:
        """Analyse every volume of an exam, in order.

        A volume whose frames turn out unreadable joins the refused ones; any other error ends the study.

        Raises
        ------
        ExamReadError
            Nothing usable under the path.
        EngineError, Cancelled
            As `analyze`.
        """
        exam = _exam(source, spacing_mm)
        reports, refused = [], list(exam.refused)
        for volume in exam.volumes:
            try:
                reports.append(self.analyze_volume(volume, progress=progress, cancel=cancel)[0])
            except ExamReadError as error:
                refused.append(Refusal(volume.info.source, error))
        return Study(tuple(reports), tuple(refused))

    def self_check(self) -> tuple[GoldenResult, ...]:
        """Run the pack's golden cases and compare with the reference's answers.

        In fp32 the errors must stay inside the pack's limits. Any other precision rounds, which its certificate
        judges; here its mean error may exceed the pack's limit by 2 % of full scale, which a broken runtime's does by
        far.

        Raises
        ------
        EngineError
            An answer is further off.
        """
        results = []
        for case in map(self._as_rounded, self._golden):
            result = self._replay(case)
            if not result.passed:
                raise EngineError(
                    "a golden case came out wrong",
                    where=f"{case.network}: {case.file}",
                    expected=f"errors of at most {case.max_error:g}, {case.mean_error:g} on average",
                    found=f"{result.max_error:g}, {result.mean_error:g} on average ({self.device.runtime})",
                    remedy="this runtime cannot be trusted here: try device cpu, precision fp32, and `scanside doctor`",
                )
            results.append(result)
        return tuple(results)

    def _as_rounded(self, case: GoldenCase) -> GoldenCase:
        """The case with the limits of the precision that its network runs in."""
        if self.device.networks[case.network].precision == "fp32":
            return case
        scale = 255.0 if case.network == "segmenter" else 1.0
        return replace(case, max_error=scale, mean_error=case.mean_error + ROUNDED_MEAN_ERROR * scale)

    def _replay(self, case: GoldenCase) -> GoldenResult:
        outputs = {name: np.empty(answer.shape, answer.dtype) for name, answer in case.outputs.items()}
        inputs = {name: np.ascontiguousarray(array) for name, array in case.inputs.items()}
        if case.network == "segmenter":
            self.segmenter.run(*inputs.values(), *outputs.values())
        else:
            self.classifier.runtime.run(inputs, outputs)
        return judge_golden(case, outputs)

    def report(self, info: VolumeInfo, found: Findings, *, missing: int = 0) -> Report:
        """The report of one run; `missing` frames never came."""
        manifest, device = self.pack.manifest, self.device
        return Report(
            software={"name": "scanside", "version": scanside.__version__},
            pack=PackRecord(manifest.name, manifest.version, self.pack.sha256),
            exam=ExamRecord(
                source=PurePath(info.source).name or info.source,
                sop_instance_uids=info.sop_instance_uids,
                laterality=info.laterality.value,
                view=info.view,
                shape=info.geometry.shape,
                spacing_mm=info.geometry.spacing_mm,
                geometry_source=info.geometry_source,
                warnings=(*info.warnings, *found.warnings),
                missing_frames=missing,
            ),
            device=replace(
                device,
                fallbacks=tuple(dict.fromkeys((*device.fallbacks, *found.fallbacks))),
                sections={plane.value: n for plane, n in found.sections.items()},
                blank_sections={plane.value: n for plane, n in found.blank_sections.items()},
            ),
            lesions=found.lesions,
            timing_ms=Timing(found.total_ms, found.busy_ms),
            geometry=info.geometry,
            mask=found.mask,
            trace=found.trace,
        )


def _close_loaded(loading: Future[Classifier]) -> None:
    with suppress(ScansideError):
        loading.result().close()


def _sizes(golden: Sequence[GoldenCase]) -> list[tuple[int, int]]:
    """Height and width of the segmenter's golden sections."""
    sections = (next(iter(case.inputs.values())) for case in golden if case.network == "segmenter")
    return list(dict.fromkeys((section.shape[2], section.shape[3]) for section in sections))


def _refuse_policy(policy: str, pack: Pack) -> None:
    planes = pack.manifest.segmenter.planes
    if policy == "confirm" and "transverse" not in planes:
        raise UsageError(
            "policy confirm begins with the transverse sections",
            where=f"pack {pack.manifest.name}",
            expected="a segmenter for the transverse plane",
            found=", ".join(planes),
            remedy="use policy exact",
        )


def _volume(source: Source, spacing_mm: Spacing | None) -> Volume:
    if isinstance(source, np.ndarray):
        if spacing_mm is None:
            raise GeometryError(
                "an array states no spacing",
                where="array",
                expected="spacing_mm=(sweep, depth, lateral)",
                found="none",
            )
        return Volume.from_array(source, spacing_mm)
    if isinstance(source, Volume):
        _refuse_spacing(source, spacing_mm)
        return source
    return _exam(source, spacing_mm).only()


def _exam(source: str | os.PathLike[str] | Exam, spacing_mm: Spacing | None) -> Exam:
    if isinstance(source, Exam):
        _refuse_spacing(source, spacing_mm)
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError("no exam", expected="a path, an Exam, a Volume or a uint8 array", found=type(source).__name__)
    from scanside.exam.open import open_exam

    return open_exam(Path(source), spacing_mm=spacing_mm)


def _refuse_spacing(source: Exam | Volume, spacing_mm: Spacing | None) -> None:
    if spacing_mm is not None:
        raise UsageError(
            "an opened exam already has its spacing",
            found=f"spacing_mm with {type(source).__name__}",
            remedy="give spacing_mm to open_exam",
        )
