"""The verb on a small cohort: figures against direct calls, the gate, what is kept, and bad input."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from scanside.cli import app
from scanside.engine.capabilities import capabilities
from scanside.engine.certificates import certificate_folder, own_certificates
from scanside.errors import ParityError, UsageError
from scanside.evaluation.errors import CohortError
from scanside.evaluation.resampling import Bootstrap, percentile_interval, weighted_auc
from scanside.evaluation.roc import auc, paired_delong
from scanside.evaluation.segmentation import dice, hd95
from scanside.exam.planes import Plane
from scanside.pack import load_pack
from scanside.parity import certify as module
from scanside.parity.answers import Answers, Question
from scanside.parity.certify import Settings, certify, judge, require_met
from scanside.parity.cohort import read_cohort
from scanside.parity.compare import compare_classifiers, compare_segmenters
from scanside.parity.networks import EngineNetwork
from tests.packs.make_tiny_pack import classifier_reference, segmenter_reference
from tests.parity.conftest import case_arrays, write_case

FP32 = Settings(precisions=("fp32",), device="cpu", threads=1, rounds=200)


class Shifted:
    """A network in numpy: the tiny pack's answers, moved. It counts what it is asked."""

    def __init__(self, network: str, shift: float) -> None:
        self.network = network
        self.shift = shift
        self.identity = {"network": network, "shift": shift}
        self.asked = 0

    def segment(self, pixels: np.ndarray) -> np.ndarray:
        self.asked += 1
        return np.clip(segmenter_reference(pixels).astype(float) + self.shift, 0, 255).astype(np.uint8)

    def classify(self, crops: dict[Plane, np.ndarray]) -> np.ndarray:
        self.asked += 1
        p = classifier_reference(**{plane.value: pixels for plane, pixels in crops.items()})
        wave = np.sin(np.arange(len(p)) + float(p.sum()))
        return np.clip(p + self.shift * wave, 0, 1).astype(np.float32)

    def close(self) -> None:
        pass


def both(
    network: str, tiny_pack: Path, discs: Path, work: Path, shift: float, sections: int = 8
) -> tuple[Answers, Answers]:
    question = Question(load_pack(tiny_pack).manifest, network, read_cohort([discs]), sections)
    found, reference = (Answers(Shifted(network, s), question, work) for s in (shift, 0.0))
    found.complete()
    reference.complete()
    return found, reference


def test_fp32_against_itself_differs_in_nothing(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    parity = judge(load_pack(tiny_pack), [discs], FP32, tmp_path)
    segmenter, classifier = (judged.certificate for judged in parity.judged)
    assert (segmenter.network, classifier.network) == ("segmenter", "classifier")
    assert classifier.auc is not None
    assert (classifier.auc.difference, classifier.auc.delong, classifier.auc.bootstrap) == (0, (0, 0), (0, 0))
    assert 0.5 < classifier.auc.auc == classifier.auc.reference < 1
    assert segmenter.masks is not None
    assert segmenter.masks.dice_difference == segmenter.masks.hd95_difference_mm == 0
    assert 0.5 < segmenter.masks.dice < 1
    assert (segmenter.masks.recounted, segmenter.masks.appeared, segmenter.masks.vanished) == (0, 0, 0)
    assert segmenter.masks.matched > 100
    for made in (segmenter, classifier):
        assert (made.probability.mean, made.probability.max, made.flips) == (0, 0, ())
        assert made.lesions == 13
        assert made.planes == ("transverse", "sagittal", "coronal")
    assert segmenter.items == 12 * 3 * 8
    assert classifier.items == 13 * 2
    assert parity.to_json()["met"] is False
    assert "exams" not in parity.to_json()
    assert all("13 lesions, the gate needs 600" in judged.unmet for judged in parity.judged)


def test_the_classifiers_figures_are_those_of_the_statistics(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    found, reference = both("classifier", tiny_pack, discs, tmp_path, 0.3)
    compared = compare_classifiers(found, reference, rounds=300, seed=4)
    cohort = found.question.cohort
    p, q = (
        np.concatenate([a.of(case)["probability"].astype(float).mean(axis=1) for case in cohort.cases])
        for a in (found, reference)
    )
    truth = np.concatenate([case.malignant for case in cohort.cases])
    patient = np.concatenate([[case.patient] * len(case.malignant) for case in cohort.cases])
    delong = paired_delong(truth, p, q, patient).interval()
    drawn = Bootstrap(truth, patient, 300, 4)
    interval = percentile_interval(drawn.values(weighted_auc(truth, p)) - drawn.values(weighted_auc(truth, q)))
    assert compared.auc is not None
    assert compared.auc.difference == pytest.approx(auc(truth, p) - auc(truth, q))
    assert compared.auc.difference != 0
    assert compared.auc.delong == (delong.low, delong.high)
    assert compared.auc.bootstrap == (interval.low, interval.high)
    assert compared.probability.p99 == np.percentile(np.abs(p - q), 99)
    names = [case.lesion_name(i) for case in cohort.cases for i in range(len(case.malignant))]
    flipped = tuple(name for name, a, b in zip(names, p, q, strict=True) if (a > 0.5) != (b > 0.5))
    assert compared.flips == flipped
    assert flipped


def test_the_segmenters_figures_are_those_of_the_statistics(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    found, reference = both("segmenter", tiny_pack, discs, tmp_path, -60)
    compared = compare_segmenters(found, reference)
    rows, errors = [], []
    for case in found.question.cohort.cases:
        for plane in Plane:
            cut = case.sections(plane, 8)
            ours, theirs = (segmenter_reference(cut.images[:, None])[:, 0] for _ in range(2))
            ours = np.clip(ours.astype(float) - 60, 0, 255).astype(np.uint8)
            errors.append(np.abs(ours.astype(int) - theirs).ravel())
            for a, b, truth in zip(ours >= 128, theirs >= 128, cut.masks, strict=True):
                if truth.any():
                    rows.append((dice(a, truth), dice(b, truth), hd95(a, truth, (1, 1)), hd95(b, truth, (1, 1))))
    a, b, c, d = np.array(rows).T
    masks = compared.masks
    assert masks is not None
    assert masks.dice_difference == pytest.approx((a - b).mean())
    assert masks.dice_difference < -0.01
    assert masks.hd95_difference_mm == pytest.approx((c - d).mean())
    error = np.concatenate(errors) / 255
    assert compared.probability.mean == pytest.approx(error.mean())
    assert compared.probability.max == error.max()
    assert compared.lesions == 13


def test_a_lesion_that_one_precision_misses_is_a_flip(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    found, reference = both("segmenter", tiny_pack, discs, tmp_path, -255)
    compared = compare_segmenters(found, reference)
    assert compared.masks is not None
    assert compared.masks.matched == compared.masks.appeared == 0
    assert compared.masks.vanished > 100
    assert len(compared.flips) == 13
    assert {"case 005 lesion 1", "case 005 lesion 2", "case 000"} <= set(compared.flips)


def test_a_killed_run_goes_on_where_it_was(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    question = Question(load_pack(tiny_pack).manifest, "classifier", read_cohort([discs]), 8)

    def killed(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    network = Shifted("classifier", 0.0)
    answers = Answers(network, question, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        answers.complete(killed)
    assert network.asked == 5
    next(answers.folder.glob("*.npz")).write_bytes(b"cut short")  # a damaged answer is asked for again
    again = Answers(Shifted("classifier", 0.0), question, tmp_path)
    again.complete()
    assert again.network.asked == 12 - 5 + 1  # type: ignore[attr-defined]
    other = Answers(Shifted("classifier", 0.1), question, tmp_path)  # another network shares nothing
    other.complete()
    assert other.network.asked == 12  # type: ignore[attr-defined]


def test_a_certificate_opens_the_gate_of_its_own_graph(
    tiny_pack_copy: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the gate's 600 lesions lowered to 13, for the time of a test."""
    monkeypatch.setattr("scanside.engine.parity.MIN_LESIONS", 13)
    monkeypatch.setattr(module, "MIN_LESIONS", 13)
    monkeypatch.setenv("SCANSIDE_DATA_DIR", str(tmp_path / "data"))
    pack = load_pack(tiny_pack_copy)
    parity = certify(pack, [discs], tmp_path / "out", FP32)
    require_met(parity)
    assert json.loads((tmp_path / "out" / "parity.json").read_text())["met"] is True
    kept, remarks = own_certificates(pack.sha256)
    assert sorted(c.network for c in kept) == ["classifier", "segmenter"]
    assert all(judged.certificate in kept for judged in parity.judged)
    assert remarks == ()
    assert own_certificates("0" * 64) == ((), ())
    next(certificate_folder(pack.sha256).glob("*.json")).write_text("{")
    kept, remarks = own_certificates(pack.sha256)
    assert len(kept) == 1
    assert "passed over" in remarks[0]
    certify(pack, [discs], tmp_path / "out", FP32, into_pack=True)
    certified = load_pack(tiny_pack_copy)
    assert certified.sha256 == pack.sha256
    assert len(certified.manifest.certificates) == 2
    certify(certified, [discs], tmp_path / "out", FP32, into_pack=True)
    assert len(load_pack(tiny_pack_copy).manifest.certificates) == 2  # in the place of the earlier ones


def test_too_few_lesions_leave_no_certificate(
    tiny_pack: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANSIDE_DATA_DIR", str(tmp_path / "data"))
    parity = certify(load_pack(tiny_pack), [discs], tmp_path / "out", FP32)
    assert not (tmp_path / "data").exists()
    with pytest.raises(ParityError, match="13 lesions, the gate needs 600") as refused:
        require_met(parity)
    assert refused.value.exit_code == 5


def test_a_network_that_strays_is_not_met(
    tiny_pack: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanside.engine.parity.MIN_LESIONS", 13)

    class Perturbed(EngineNetwork):
        def segment(self, pixels: np.ndarray) -> np.ndarray:
            return np.minimum(super().segment(pixels), 200) // 2

        def classify(self, crops: Any) -> np.ndarray:
            return 1 - super().classify(crops)

    monkeypatch.setattr(module, "_reference", _reference_of(Shifted))
    monkeypatch.setattr(module, "EngineNetwork", Perturbed)
    parity = judge(load_pack(tiny_pack), [discs], FP32, tmp_path)
    segmenter, classifier = parity.judged
    assert segmenter.unmet[0].startswith("Dice difference -")
    assert {text.partition(" to ")[0][:15] for text in classifier.unmet} == {"AUC difference "}
    assert len(classifier.unmet) == 2
    assert classifier.certificate.flips


def _reference_of(kind: type[Shifted]) -> Any:
    return lambda pack, network, *_: (kind(network, 0.0), "numpy")


# --- the command line and bad input ---


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_the_verb_writes_its_result_and_exits_5(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("parity", tiny_pack, "--data", discs, "--out", out, "--precision", "fp32", "--device", "cpu", "-q")
    assert result.exit_code == 5
    assert "13 lesions, the gate needs 600" in result.output
    written = json.loads((out / "parity.json").read_text())
    assert written["settings"] == {"against": "fp32", "device": "cpu", "sections": 12, "rounds": 2000, "seed": 2025}
    for judged in written["judged"]:
        listing = (out / f"{judged['certificate']['network']}.cases.txt").read_bytes()
        assert hashlib.sha256(listing).hexdigest() == judged["certificate"]["data_sha256"]
        assert len(listing.splitlines()) == 12
    assert written["schema"] == "scanside-parity/1"
    again = run(
        "parity", tiny_pack, "--data", discs, "--out", out, "--precision", "fp32", "--device", "cpu", "-q", "--json"
    )
    shown = json.loads(again.stdout)
    for content in (shown, written):
        for judged in content["judged"]:
            judged["certificate"].pop("date")
    assert shown == written


def test_an_empty_folder(tiny_pack: Path, tmp_path: Path) -> None:
    result = run("parity", tiny_pack, "--data", tmp_path, "--out", tmp_path / "out", "-q")
    assert result.exit_code == 3
    assert "no cohort here" in result.stderr


def test_a_damaged_case(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(discs, tmp_path / "cohort"))
    file = folder / "phantom-000003.npz"
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(CohortError, match=r"phantom-000003\.npz: the case cannot be read"):
        judge(load_pack(tiny_pack), [folder], FP32, tmp_path / "work")
    file.write_bytes(b"")
    with pytest.raises(CohortError, match="cannot be read"):
        read_cohort([folder])


def test_no_malignant_lesion(tiny_pack: Path, tmp_path: Path) -> None:
    for seed in range(3):
        write_case(tmp_path / "cohort", seed, case_arrays(seed, malignant=False))
    with pytest.raises(CohortError, match="one class only") as refused:
        judge(load_pack(tiny_pack), [tmp_path / "cohort"], FP32, tmp_path / "work")
    assert refused.value.exit_code == 3


def test_a_plane_that_is_missing_is_not_judged(tiny_pack: Path, tmp_path: Path) -> None:
    for seed in range(4):
        arrays = case_arrays(seed, malignant=seed % 2 == 0, planes=("transverse", "sagittal"))
        write_case(tmp_path / "cohort", seed, arrays)
    pack = load_pack(tiny_pack)
    parity = judge(pack, [tmp_path / "cohort"], FP32, tmp_path / "work")
    (judged,) = parity.judged
    assert judged.certificate.network == "segmenter"
    assert judged.certificate.planes == ("transverse", "sagittal")
    assert parity.not_judged == (("classifier", "no crops of all its planes (transverse, sagittal, coronal)"),)
    with pytest.raises(CohortError, match="do not show what is to be judged"):
        judge(pack, [tmp_path / "cohort"], Settings(networks=("classifier",), precisions=("fp32",)), tmp_path / "work")


def test_a_reference_that_is_refused_is_refused_before_anything_is_answered(
    tiny_pack: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Shifted("segmenter", 0.0)

    def reference(pack: object, network: str, *_: object) -> tuple[Shifted, str]:
        if network == "classifier":
            raise UsageError("the reference is of another training")
        return segmenter, "stand-in"

    monkeypatch.setattr(module, "_reference", reference)
    with pytest.raises(UsageError, match="another training"):
        judge(load_pack(tiny_pack), [discs], FP32, tmp_path)
    assert segmenter.asked == 0


def test_another_pixel_size(tiny_pack: Path, tmp_path: Path) -> None:
    arrays = case_arrays(1, malignant=True)
    meta = json.loads(arrays["meta"].tobytes()) | {"settings": {"pitch_mm": 0.5}}
    write_case(tmp_path / "cohort", 1, arrays | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)})
    with pytest.raises(CohortError, match="another pixel size"):
        judge(load_pack(tiny_pack), [tmp_path / "cohort"], FP32, tmp_path / "work")


@pytest.mark.parametrize(
    "settings", [Settings(precisions=("fp64",)), Settings(against="numpy"), Settings(networks=("detector",))]
)
def test_unknown_names(tiny_pack: Path, discs: Path, tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(UsageError):
        judge(load_pack(tiny_pack), [discs], settings, tmp_path)


def test_an_unknown_precision_on_the_command_line(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    assert run("parity", tiny_pack, "--data", discs, "--out", tmp_path, "--precision", "fp64").exit_code == 2


def test_without_a_name_everything_that_runs_here_is_judged(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    machine = capabilities()
    parity = judge(load_pack(tiny_pack), [discs], Settings(rounds=200, sections=2), tmp_path)
    expected = "bf16" if machine.bf16 and (machine.openvino or machine.openvino_api) else "fp32"
    assert {judged.certificate.precision for judged in parity.judged} == {expected}


def test_whole_exams(tiny_pack: Path, discs: Path, tmp_path: Path) -> None:
    settings = Settings(precisions=("fp32",), device="cpu", rounds=200, exams=("phantom:5000:5002:24x64x64",))
    parity = judge(load_pack(tiny_pack), [discs], settings, tmp_path)
    exams = parity.to_json()["exams"]["fp32"]
    assert [exam["exam"] for exam in exams] == ["phantom 5000", "phantom 5001"]
    for exam in exams:
        assert exam["only_reference"] == exam["only_here"] == exam["flips"] == 0
    with pytest.raises(UsageError, match="no range of phantoms"):
        judge(load_pack(tiny_pack), [discs], Settings(exams=("phantom:9:1",)), tmp_path)
