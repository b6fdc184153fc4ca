"""`scanside parity`: judge precisions of a pack on a cohort against a reference, and make their certificates."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import scanside
from scanside.engine.capabilities import Capabilities, capabilities
from scanside.engine.certificates import store_certificate
from scanside.engine.onnxruntime import choose
from scanside.engine.parity import MIN_LESIONS, unmet
from scanside.errors import OutputError, ParityError, ScansideError, UsageError
from scanside.evaluation.errors import CohortError, require_eval_extra
from scanside.exam.planes import Plane
from scanside.exam.write import atomic_file
from scanside.pack import NETWORKS, PRECISIONS, Certificate, Pack, add_certificates
from scanside.parity.answers import Answers, Question
from scanside.parity.cohort import Cohort, read_cohort
from scanside.parity.compare import Compared, compare_classifiers, compare_segmenters
from scanside.parity.exams import ExamDifference, compare_exams, exam_sources
from scanside.parity.networks import Answering, EngineNetwork
from scanside.report.json import report_text

SCHEMA = "scanside-parity/1"
RESULT_NAME = "parity.json"
REFERENCES = ("pytorch", "fp32")
PITCH_TOLERANCE = 0.01

Stages = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What is judged, and how.

    `precisions` and `networks` empty judge all that this machine can run; `reference` is a folder of PyTorch weights;
    `sections` the most a plane of a case; `rounds` and `seed` are the bootstrap's; `exams` whole exams to compare.
    """

    against: str = "fp32"
    device: str = "auto"
    precisions: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    reference: Path | None = None
    sections: int = 12
    rounds: int = 2000
    seed: int = 2025
    threads: int | None = None
    exams: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """A certificate, and what of the gate it does not meet."""

    certificate: Certificate
    unmet: tuple[str, ...]


@dataclass(frozen=True)
class Parity:
    """The outcome. `not_judged` are (network, reason) pairs; `exams` maps a precision to its exams' differences.

    `cases` holds the cases that each network was judged on.
    """

    pack: Pack
    settings: Settings
    cases: Mapping[str, Cohort]
    judged: tuple[Judged, ...]
    not_judged: tuple[tuple[str, str], ...]
    exams: dict[str, tuple[ExamDifference, ...]]
    schema: str = SCHEMA

    @property
    def met(self) -> bool:
        """Whether every certificate meets the gate."""
        return not any(judged.unmet for judged in self.judged)

    def to_json(self) -> dict[str, Any]:
        """The content of parity.json; `exams` is absent where none were compared."""
        manifest = self.pack.manifest
        content: dict[str, Any] = {
            "schema": self.schema,
            "software": {"name": "scanside", "version": scanside.__version__},
            "pack": {"name": manifest.name, "version": manifest.version, "sha256": self.pack.sha256},
            "settings": {
                name: getattr(self.settings, name) for name in ("against", "device", "sections", "rounds", "seed")
            },
            "met": self.met,
            "judged": [
                {"met": not judged.unmet, "unmet": list(judged.unmet), "certificate": judged.certificate.to_json()}
                for judged in self.judged
            ],
            "not_judged": [{"network": network, "reason": reason} for network, reason in self.not_judged],
        }
        if self.exams:
            content["exams"] = {name: [asdict(exam) for exam in exams] for name, exams in self.exams.items()}
        return content


def judge(
    pack: Pack,
    data: Sequence[Path],
    settings: Settings,
    work: Path,
    *,
    besides: Sequence[EngineNetwork] = (),
    stages: Stages | None = None,
) -> Parity:
    """Judge each precision of each network against the reference on the cases in `data`.

    Parameters
    ----------
    work : Path
        Keeps every answer, so that a killed run goes on and three precisions cost one reference.
    besides : sequence of EngineNetwork
        More to judge than what this machine would choose.
    stages : callable, optional
        Called with a stage's name, what is done and the total.

    Raises
    ------
    UsageError
        An unknown reference, precision or network.
    CohortError
        The cases cannot be read, or judge nothing that was asked for.
    MissingExtraError
        SciPy is not installed.
    ScansideError
        A precision that was named cannot run here.
    """
    require_eval_extra()
    _known("--against", (settings.against,), REFERENCES)
    _known("--precision", settings.precisions, PRECISIONS)
    _known("--network", settings.networks, NETWORKS)
    machine = capabilities()
    threads = settings.threads or machine.cores
    runs = {name: _precisions(pack, machine, name, settings) for name in settings.networks or NETWORKS}
    sources = exam_sources(settings.exams)
    cohort = read_cohort(data)
    questions: dict[str, Question] = {}
    not_judged: list[tuple[str, str]] = []
    for network in runs:
        cases, missing = _cases(pack, network, cohort)
        if cases.cases:
            _require_usable(pack, network, cases)
            questions[network] = Question(pack.manifest, network, cases, settings.sections)
        else:
            not_judged.append((network, missing))
    if not questions or any(network in settings.networks for network, _ in not_judged):
        raise CohortError(
            "the cases do not show what is to be judged",
            where=", ".join(map(str, data)),
            found="; ".join(f"{network}: {reason}" for network, reason in not_judged),
        )
    references = {network: _reference(pack, network, machine, settings, threads) for network in questions}
    judged: list[Judged] = []
    for network, question in questions.items():
        reference, named = references[network]
        expected = _answered(reference, question, work, named, stages)
        choices = [choose(machine, settings.device, precision, network) for precision in runs[network]]
        chosen = [EngineNetwork(pack, network, machine, c, device=settings.device, threads=threads) for c in choices]
        for ours in (*chosen, *(other for other in besides if other.network == network)):
            found = _answered(ours, question, work, f"{network} {ours.choice.precision}", stages)
            compared = (
                compare_segmenters(found, expected)
                if network == "segmenter"
                else compare_classifiers(found, expected, rounds=settings.rounds, seed=settings.seed)
            )
            certificate = _certificate(pack, ours, question, compared, named)
            judged.append(Judged(certificate, unmet(certificate)))
    exams = {
        precision: compare_exams(
            pack,
            sources,
            precision,
            device=settings.device,
            threads=settings.threads,
            work=work,
            progress=_stage(stages, f"exams {precision}"),
        )
        for precision in dict.fromkeys(p for precisions in runs.values() for p in precisions)
        if sources
    }
    used = {network: question.cohort for network, question in questions.items()}
    return Parity(pack, settings, used, tuple(judged), tuple(not_judged), exams)


def certify(
    pack: Pack,
    data: Sequence[Path],
    out: Path,
    settings: Settings,
    *,
    work: Path | None = None,
    into_pack: bool = False,
    stages: Stages | None = None,
) -> Parity:
    """As `judge`; writes parity.json and each network's list of cases into `out`, and keeps the certificates.

    They go to the user's data folder, or with `into_pack` into the pack's manifest. Those on too few lesions to judge
    are in parity.json alone.

    Raises
    ------
    ScansideError
        As `judge`.
    OutputError
        A folder cannot be written.
    """
    if into_pack and not os.access(pack.path, os.W_OK):
        raise OutputError("the certificates cannot be written", where=pack.path, found="a folder that is read only")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("the result cannot be written", where=out, found=error.strerror) from None
    parity = judge(pack, data, settings, work or out / "work", stages=stages)
    for network, cases in parity.cases.items():
        with atomic_file(out / f"{network}.cases.txt") as stream:
            stream.write(cases.listing.encode())
    with atomic_file(out / RESULT_NAME) as stream:
        stream.write(report_text(parity.to_json()).encode())
    enough = [j.certificate for j in parity.judged if j.certificate.lesions >= MIN_LESIONS]
    if into_pack and enough:
        add_certificates(pack, enough)
    elif not into_pack:
        for certificate in enough:
            store_certificate(pack.sha256, certificate)
    return parity


def require_met(parity: Parity) -> None:
    """Raise unless every certificate meets the gate.

    Raises
    ------
    ParityError
        One does not.
    """
    failed = [
        f"{judged.certificate.network} {judged.certificate.precision}: {'; '.join(judged.unmet)}"
        for judged in parity.judged
        if judged.unmet
    ]
    if failed:
        raise ParityError("parity is not met", where=f"pack {parity.pack.manifest.name}", found=" | ".join(failed))


def _known(option: str, given: Sequence[str], known: Sequence[str]) -> None:
    strange = [name for name in given if name not in known]
    if strange:
        raise UsageError(f"{option} makes no sense", expected=" | ".join(known), found=repr(strange[0]))


def _precisions(pack: Pack, machine: Capabilities, network: str, settings: Settings) -> tuple[str, ...]:
    """What is judged of a network: what was named, else all of the pack's that run here; fp32 if nothing else does."""
    if settings.precisions:
        for precision in settings.precisions:
            choose(machine, settings.device, precision, network)
        return settings.precisions
    runnable = []
    for precision in (p for p in pack.manifest.precisions if p != "fp32"):
        try:
            choose(machine, settings.device, precision, network)
        except ScansideError:  # not on this machine
            continue
        if precision != "int8" or pack.is_calibrated(network):
            runnable.append(precision)
    return tuple(runnable) or ("fp32",)


def _cases(pack: Pack, network: str, cohort: Cohort) -> tuple[Cohort, str]:
    """The cases that hold what `network` sees, and what the others lack."""
    if network == "segmenter":
        planes = pack.manifest.segmenter.planes
        return Cohort(
            tuple(c for c in cohort.cases if any(p in c.section_shapes for p in planes))
        ), f"no sections ({', '.join(planes)})"
    inputs = pack.manifest.classifier.inputs
    return Cohort(
        tuple(c for c in cohort.cases if set(inputs) <= {p.value for p in c.triplet_planes})
    ), f"no crops of all its planes ({', '.join(p.value for p in Plane if p.value in inputs)})"


def _require_usable(pack: Pack, network: str, cases: Cohort) -> None:
    """Raise before hours of work whose result would mean nothing.

    Raises
    ------
    CohortError
        The sections have another pixel size than the segmenter's, or all lesions are of one class.
    """
    if network == "segmenter":
        pitch = pack.manifest.segmenter.pitch_mm
        for case in cases.cases:
            if abs(case.pitch_mm / pitch - 1) > PITCH_TOLERANCE:
                raise CohortError(
                    "the sections have another pixel size than the segmenter's",
                    where=case.path,
                    expected=f"{pitch:g} mm",
                    found=f"{case.pitch_mm:g} mm",
                )
        return
    malignant = [m for case in cases.cases for m in case.malignant]
    if len(set(malignant)) < 2:
        raise CohortError(
            "the cohort has one class only: no AUC",
            expected="malignant and benign lesions",
            found=f"{sum(malignant)} malignant of {len(malignant)}",
        )


def _reference(
    pack: Pack, network: str, machine: Capabilities, settings: Settings, threads: int
) -> tuple[Answering, str]:
    """What is judged against, and how certificates name it."""
    if settings.against == "fp32":
        choice = choose(machine, "cpu", "fp32", network)
        return EngineNetwork(pack, network, machine, choice, device="cpu", threads=threads), f"fp32 on {choice.runtime}"
    from scanside.parity.pytorch import TorchNetwork

    torch = TorchNetwork(pack, network, machine, settings.reference, threads)
    return torch, torch.description


def _answered(network: Answering, question: Question, work: Path, stage: str, stages: Stages | None) -> Answers:
    answers = Answers(network, question, work)
    answers.complete(_stage(stages, stage))
    return answers


def _stage(stages: Stages | None, name: str) -> Callable[[int, int], None] | None:
    return None if stages is None else lambda done, total: stages(name, done, total)


def _certificate(pack: Pack, ours: EngineNetwork, question: Question, compared: Compared, against: str) -> Certificate:
    ranges = pack.manifest.files.get(f"{ours.network}.ranges.json") if ours.choice.precision == "int8" else None
    return Certificate(
        network=ours.network,
        precision=ours.choice.precision,
        runtime=ours.choice.runtime,
        arithmetic=ours.arithmetic,
        versions={"scanside": scanside.__version__, **ours.versions},
        graph_sha256=ours.graph_sha256,
        ranges_sha256=None if ranges is None else ranges.sha256,
        against=against,
        data=question.cohort.name,
        data_sha256=question.cohort.sha256,
        planes=tuple(plane.value for plane in question.planes),
        lesions=compared.lesions,
        items=compared.items,
        probability=compared.probability,
        flips=compared.flips,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        processor=ours.processor,
        flags=ours.flags,
        auc=compared.auc,
        masks=compared.masks,
    )
