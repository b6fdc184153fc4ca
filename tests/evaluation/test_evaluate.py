"""`scanside evaluate` as a user runs it: files, pictures, summary, refusals and exit codes."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import scanside.evaluation
from scanside.cli import app
from scanside.evaluation import errors, evaluate_cohorts, evaluate_to_folder
from scanside.evaluation.curves import decision_curve
from scanside.evaluation.drawing import image
from scanside.evaluation.evaluate import tables
from scanside.evaluation.figures import drawings, figure3
from scanside.evaluation.predictions import Classifier, read_predictions
from scanside.evaluation.readings import read_readings
from scanside.evaluation.result import Evaluation
from scanside.evaluation.roc import roc_curve
from scanside.evaluation.summary import summary

FEW = ("--rounds", "100")


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *(str(word) for word in words)])


def one_message(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of eight cases and one model."""
    path = tmp_path_factory.mktemp("small") / "predictions.csv"
    rows = [f"{i},{int(i < 4)},{p}\n" for i, p in enumerate((0.9, 0.8, 0.4, 0.7, 0.1, 0.6, 0.2, 0.3))]
    path.write_text("case,label,probability\n" + "".join(rows))
    return path


@pytest.fixture(scope="module")
def out(invented: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything the command writes for the invented cohort."""
    folder = tmp_path_factory.mktemp("evaluated") / "result"
    files = ("--readers", invented / "readers.csv", "--detections", invented / "detections.csv")
    result = run(invented / "predictions.csv", "--out", folder, *files, "--rounds", 200, "--seed", 1)
    assert result.exit_code == 0, result.stderr
    assert "ResNet50 (fusion2)" in result.stdout
    assert "Research use only" in result.stdout
    return folder


def test_the_folder_holds_tables_figures_and_a_summary(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == ["evaluation.json", "figures", "summary.md", "tables"]
    for name in ("figure3", "figure6", "roc", "calibration", "froc"):
        assert (out / "figures" / f"{name}.png").is_file()
        assert (out / "figures" / f"{name}.svg").is_file()
    assert {path.suffix for path in (out / "tables").iterdir()} == {".csv", ".md"}
    for number in range(1, 7):
        assert (out / "tables" / f"table{number}.csv").is_file()


def test_every_figure_has_its_numbers(out: Path, evaluation: Evaluation) -> None:
    def rows(name: str) -> list[dict[str, str]]:
        with (out / "figures" / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    cases = evaluation.predictions.of_cohort("external")
    p = cases.probability[evaluation.index]
    curve = decision_curve(cases.malignant, p)
    found = [float(r["net_benefit"]) for r in rows("figure3") if r["cohort"] == "external"]
    assert found == pytest.approx(curve.net_benefit, abs=1e-5)
    points = [r for r in rows("figure6-roc") if r["cohort"] == "external"]
    assert [float(r["sensitivity"]) for r in points] == pytest.approx(
        roc_curve(cases.malignant, p).sensitivity, abs=1e-5
    )
    matrix = next(r for r in rows("figure6-confusion") if r["cohort"] == "external")
    assert int(matrix["tp"]) == ((p > 0.5) & cases.malignant).sum()
    assert {r["level"] for r in rows("figure6-readers")} == {"junior", "middle", "senior"}
    assert {r["classifier"] for r in rows("roc")} == {str(c) for c in evaluation.predictions.probability}
    assert rows("calibration")
    assert rows("froc")


def test_pictures_are_pictures(out: Path) -> None:
    for path in (out / "figures").glob("*.png"):
        picture = cv2.imread(str(path))
        assert picture is not None
        assert min(picture.shape[:2]) > 900
        assert (picture < 128).mean() > 0.002  # something is drawn
        border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        assert (border > 250).all(), f"{path.name} is cut off"
    drawing = (out / "figures" / "figure6.svg").read_text()
    assert "1 − specificity" in drawing
    assert "junior, without assistance" in drawing


def test_the_summary_can_be_pasted_from(out: Path, evaluation: Evaluation) -> None:
    text = (out / "summary.md").read_text()
    accuracy = evaluation.accuracy("internal")
    assert accuracy is not None
    c = accuracy.confusion
    assert f"**Internal** (44 lesions of {evaluation.predictions.of_cohort('internal').n_patients} patients" in text
    assert f"AUC of {accuracy.auc.auc:.3f}" in text
    assert f"sensitivity {100 * c.sensitivity.estimate:.1f}% ({c.tp}/{c.tp + c.fn}; 95% CI" in text
    for method in ("Wilson", "DeLong", "McNemar", "Holm", "Fleiss", "paired t-test", "Welch", "bootstrap"):
        assert method in text
    for table in (out / "tables").glob("*.md"):
        assert table.read_text() in text
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert all((out / link).is_file() for link in links)
    assert not re.search(r"\b(nan|None)\b", text)


def test_the_record_says_how_it_was_made(out: Path) -> None:
    record = json.loads((out / "evaluation.json").read_text())
    assert record["schema"] == "scanside-evaluation/1"
    assert record["bootstrap"] == {"rounds": 200, "seed": 1}
    assert record["inputs"]["predictions"]["file"] == "predictions.csv"
    assert len(record["inputs"]["readers"]["sha256"]) == 64
    assert record["cohorts"]["internal"] == {"cases": 44, "patients": 44, "malignant": 20}


def test_the_same_input_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run(small, "--out", tmp_path / name, *FEW).exit_code == 0
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) > 15
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_the_index_classifier_can_be_chosen(invented: Path, tmp_path: Path, monkeypatch) -> None:
    table = invented / "predictions.csv"
    monkeypatch.setattr("scanside.evaluation.figures.drawings", lambda _: [])
    found = evaluate_to_folder(table, tmp_path / "a", model="VGG19", rounds=100)
    assert found.index == Classifier("VGG19", "fusion2")
    text = (tmp_path / "a" / "summary.md").read_text()
    assert "**External** (33 lesions of" in text
    assert "not seen by VGG19 (fusion2)" in text
    found = evaluate_to_folder(table, tmp_path / "b", planes="coronal", rounds=100)
    assert found.index == Classifier("ResNet50", "coronal")
    result = run(table, "--out", tmp_path / "c", "--model", "VGG16")
    assert result.exit_code == 2
    assert "no predictions of this classifier; expected ResNet50 (fusion2)" in one_message(result)


def test_the_summary_speaks_for_single_readers_and_says_what_it_leaves_out(invented: Path) -> None:
    cases = read_predictions(invented / "predictions.csv")
    every = read_readings(invented / "readers.csv", cases)
    fewer = [r for r in every if r.planes == 3 and not (r.reader == "R2" and r.assisted)]
    partly = evaluate_cohorts(cases, fewer, index=Classifier("VGG19", "fusion2"), rounds=100)
    text = summary(partly, tables(partly), [])
    assert "With the model's assistance, R1's sensitivity went from" in text
    assert "With the model's assistance, senior readers' sensitivity went from" in text
    assert "junior readers'" not in text
    assert "Three-plane readings without assistance that have no counterpart with it are not in Table 5: R2." in text
    assert "external: its readers are not in Table 5, because VGG19 (fusion2) did not see it." in text


def test_classifiers_that_share_neither_model_nor_planes_are_not_said_to_be_compared(invented: Path) -> None:
    lines = (invented / "predictions.csv").read_text().splitlines()
    kept = [line for line in lines if "ResNet50,fusion2" in line or "VGG19,fusion2" in line]
    apart = invented.parent / "apart.csv"
    apart.write_text("\n".join([lines[0], *(line.replace("VGG19,fusion2", "VGG19,sagittal") for line in kept)]) + "\n")
    found = evaluate_cohorts(read_predictions(apart), index=Classifier("ResNet50", "fusion2"), rounds=100)
    text = summary(found, tables(found), [])
    assert "Classifiers were compared" not in text
    assert "No other classifier shares ResNet50 (fusion2)'s model or its planes" in text
    both = evaluate_cohorts(read_predictions(invented / "predictions.csv"), rounds=100)
    assert "Classifiers were compared" in summary(both, tables(both), [])


def test_figures_of_a_model_that_saw_one_cohort(invented: Path) -> None:
    cases = read_predictions(invented / "predictions.csv")
    partly = evaluate_cohorts(cases, index=Classifier("VGG19", "fusion2"), rounds=100)
    made = {drawing.name: drawing for drawing in drawings(partly)}
    assert {r["cohort"] for r in made["figure6"].data["figure6-confusion"]} == {"internal"}
    assert {r["cohort"] for r in made["figure3"].data["figure3"]} == {"internal", "external"}


def test_an_earlier_evaluation_is_replaced_and_other_files_are_not(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "result"
    assert run(small, "--out", folder, *FEW).exit_code == 0
    assert run(small, "--out", folder, *FEW, "--seed", 3).exit_code == 0
    assert json.loads((folder / "evaluation.json").read_text())["bootstrap"]["seed"] == 3
    (folder / "my-notes.txt").write_text("mine")
    result = run(small, "--out", folder, *FEW)
    assert result.exit_code == 4
    assert "my-notes.txt" in one_message(result)
    assert (folder / "my-notes.txt").read_text() == "mine"


def test_bad_input_leaves_nothing_behind(invented: Path, tmp_path: Path) -> None:
    table = tmp_path / "predictions.csv"
    table.write_text("case,label,probability\na,1,0.5\na,1,0.5\n")
    result = run(table, "--out", tmp_path / "result")
    assert result.exit_code == 3
    assert one_message(result).startswith(f"error: {table}, row 3: the case is there twice")
    readers = tmp_path / "readers.csv"
    readers.write_text("".join((invented / "readers.csv").open().readlines()[:-1]))
    result = run(invented / "predictions.csv", "--out", tmp_path / "result", "--readers", readers)
    assert result.exit_code == 3
    assert "misses cases of the cohort 'external'" in one_message(result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.csv", "readers.csv"]


def test_a_fault_while_drawing_leaves_nothing_behind(small: Path, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("no ink")

    monkeypatch.setattr("scanside.evaluation.drawing.image", broken)
    result = run(small, "--out", tmp_path / "result", *FEW)
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_error(small: Path, tmp_path: Path, monkeypatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scanside.evaluation.evaluate.write_file", full)
    result = run(small, "--out", tmp_path / "result", *FEW)
    assert result.exit_code == 4
    assert "No space left" in one_message(result)
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_there_is_one_error_with_the_remedy(invented: Path, tmp_path: Path) -> None:
    """In a fresh interpreter in which neither library can be found."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('scipy', 'matplotlib'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "import importlib.util as util\n"
        "real = util.find_spec\n"
        "util.find_spec = lambda name, *a: None if name in ('scipy', 'matplotlib') else real(name, *a)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from scanside.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "evaluate", str(invented / "predictions.csv"), "--out", str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert 'found no scipy and no matplotlib. Install them with pip install "scanside[eval]"' in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_public_names_come_from_their_home() -> None:
    for name in scanside.evaluation.__all__:
        assert getattr(scanside.evaluation, name).__name__ == name
        assert name in dir(scanside.evaluation)
    assert set(scanside.evaluation.__all__) == {n for names in scanside.evaluation._HOME.values() for n in names}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        scanside.evaluation.nothing  # noqa: B018


def test_matching_needs_no_extra() -> None:
    code = "import sys, scanside.evaluation.matching; print(*[m for m in ('scipy', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_extra_is_looked_for_first(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.MissingExtraError) as caught:
        evaluate_to_folder(tmp_path / "none.csv", tmp_path / "r")
    assert caught.value.exit_code == 4


def test_a_library_leaves_matplotlib_as_it_was(evaluation: Evaluation) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    image(figure3(evaluation), "svg")
    assert dict(matplotlib.rcParams) == before
