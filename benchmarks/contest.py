"""Contestants run the same exam in turns, each in a process of its own, so that noise meets all of them alike."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from benchmarks.done import Rows
from benchmarks.peers.common import CannotRunError
from scanside.bench.statistics import Spread
from scanside.errors import EngineError, OutputError

ROOT = Path(__file__).parents[1]
WORKER = Path(__file__).parent / "worker.py"

CENTROID_MM = 1.0
BOX_MM = 2.0
PROBABILITY = {"fp32": 0.02, "rounded": 0.3}
"""How far two contestants' answers to one lesion may lie apart: one or two section pixels; probabilities of two that
compute in FP32, or of which one rounds. Rounding that moves a box by a pixel changes the crop, so what it did is
published (`probability_off`), and the limit only catches what is broken."""
BORDERLINE = 0.02
"""A lesion that one of two finds alone must score this near to the least score: rounding decides there."""


@dataclass(frozen=True)
class Contestant:
    """Who runs: a name for the table, the module that does it, its options, and where its `scanside` lies.

    Contestants of one `policy` look at the same sections and must find the same lesions.
    """

    name: str
    module: str
    how: Mapping[str, Any] = field(default_factory=dict)
    path: Path = ROOT
    policy: str = "exact"


class Worker:
    """A contestant's process. Use as a context: leaving it ends the process."""

    def __init__(self, contestant: Contestant, *, exam: Path, pack: Path | None, threads: int) -> None:
        self.name = contestant.name
        job = {
            "exam": str(exam),
            "pack": None if pack is None else str(pack),
            "threads": threads,
            "how": dict(contestant.how),
        }
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(contestant.path), str(ROOT)])}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), contestant.module, json.dumps(job)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def loaded(self) -> dict[str, Any]:
        """What it says of itself once it is ready.

        Raises
        ------
        CannotRunError
            What it needs is not here; `found` says what.
        EngineError
            It failed.
        """
        return self._answer()

    def run(self) -> dict[str, Any]:
        """One exam: wall_s, cpu_s, peak_rss_mib, lesions, and of ours stages_ms, of peers settings.

        Raises
        ------
        CannotRunError, EngineError
            As `loaded`.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its last words say why
            print("run", file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["no word"])[-1]
            raise EngineError("a contestant's process ended", where=self.name, found=last[:300])
        answer = json.loads(line)
        if "error" in answer:
            kind, what = (CannotRunError, "cannot run here") if answer["cannot_run"] else (EngineError, "failed")
            error = kind(f"a contestant {what}", where=self.name, found=answer["error"])
            error.exit_code = answer["exit_code"] if answer["exit_code"] != 1 else error.exit_code
            raise error
        return answer


@dataclass(frozen=True)
class Outcome:
    """What each contestant said of itself, who could not run and why, and all timed rounds."""

    about: Mapping[str, Mapping[str, Any]]
    skipped: Mapping[str, str]
    rounds: Sequence[Mapping[str, Any]]

    def of(self, names: Collection[str]) -> Outcome:
        """The same of some contestants alone."""
        return Outcome(
            {name: said for name, said in self.about.items() if name in names},
            {name: reason for name, reason in self.skipped.items() if name in names},
            [row for row in self.rounds if row["contestant"] in names],
        )


def hold(
    contestants: Sequence[Contestant],
    rows: Rows,
    *,
    exam: Path,
    pack: Path | None,
    threads: int,
    rounds: int,
    least_score: float | None,
) -> Outcome:
    """Run all contestants `rounds` times in turns, in another order each round, after one untimed run each.

    The first contestant must run; another that lacks what it needs here is left out with its reason. All of one policy
    must find the lesions the first of them finds, but for borderline ones (see `require_same_lesions`); with
    `least_score` None nobody looks.

    Raises
    ------
    EngineError
        The first contestant cannot run, any of them fails, or one finds other lesions.
    """
    about: dict[str, dict[str, Any]] = {}
    skipped, workers = {}, []
    references: dict[str, tuple[str, list[Any]]] = {}

    def agreement(contestant: Contestant, lesions: list[Any]) -> Agreement:
        if least_score is None:
            return Agreement()
        precision = about[contestant.name]["precision"]
        first_precision, first_lesions = references.setdefault(contestant.policy, (precision, lesions))
        precisions = (first_precision, precision)
        return require_same_lesions(contestant.name, first_lesions, lesions, precisions, least_score)

    with ExitStack() as stack:
        for contestant in contestants:
            worker = stack.enter_context(Worker(contestant, exam=exam, pack=pack, threads=threads))
            try:
                about[contestant.name] = worker.loaded()
                first = worker.run()
            except CannotRunError as error:
                if contestant is contestants[0]:
                    raise
                about.pop(contestant.name, None)
                skipped[contestant.name] = error.found or error.what
                print(f"{contestant.name} is left out: {skipped[contestant.name]}", file=sys.stderr, flush=True)
                continue
            about[contestant.name] |= {
                **first.get("settings", {}),
                "lesions": len(first["lesions"]),
                **asdict(agreement(contestant, first["lesions"])),
            }
            workers.append((contestant, worker))
        for number in range(rounds):
            order = list(workers)
            random.Random(number).shuffle(order)
            for contestant, worker in order:
                if (number, worker.name) in rows:
                    continue
                answer = worker.run()
                agreement(contestant, answer["lesions"])
                rows.add(
                    {
                        "round": number,
                        "contestant": worker.name,
                        "wall_s": round(answer["wall_s"], 4),
                        "cpu_s": round(answer["cpu_s"], 4),
                        "lesions": len(answer["lesions"]),
                        "peak_rss_mib": answer["peak_rss_mib"] and round(answer["peak_rss_mib"]),
                        "stages_ms": {name: round(ms, 1) for name, ms in answer.get("stages_ms", {}).items()},
                    }
                )
                print(f"round {number + 1} of {rounds}: {worker.name} {answer['wall_s']:.2f} s", flush=True)
    return Outcome(about, skipped, [row for row in rows.rows if row["round"] < rounds])


@dataclass(frozen=True)
class Agreement:
    """How two contestants' lesions compare: borderline ones that one alone finds, and the largest differences."""

    borderline_alone: int = 0
    box_off_mm: float = 0.0
    probability_off: float = 0.0


def require_same_lesions(
    name: str,
    expected: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    precisions: Sequence[str],
    least_score: float,
) -> Agreement:
    """How the lesions of two contestants that compute in `precisions` agree.

    Two lesions are the same within `CENTROID_MM`, `BOX_MM` and `PROBABILITY`; only borderline ones may be found by one
    of two alone.

    Raises
    ------
    EngineError
        A lesion that is not borderline is found by one alone, or two that belong together differ by more.
    """
    likely = PROBABILITY["fp32" if set(precisions) == {"fp32"} else "rounded"]
    box_off = probability_off = 0.0
    left, alone = list(found), []
    for lesion in expected:
        near = min(left, key=lambda other: _distance(lesion["centroid_mm"], other["centroid_mm"]), default=None)
        if near is None or _distance(lesion["centroid_mm"], near["centroid_mm"]) > CENTROID_MM:
            alone.append(lesion)
            continue
        left.remove(near)
        box = float(np.abs(np.subtract(lesion["box_mm"], near["box_mm"])).max())
        probability = abs(lesion["probability"] - near["probability"])
        box_off, probability_off = max(box_off, box), max(probability_off, probability)
        for what, difference, limit in (("box, mm", box, BOX_MM), ("probability", probability, likely)):
            if not difference <= limit:
                raise EngineError(
                    f"a contestant finds another lesion ({what})",
                    where=name,
                    expected=f"a difference of at most {limit:g}",
                    found=f"{difference:.3g}",
                )
    for lesion in (*alone, *left):
        if not lesion["detection_score"] - least_score <= BORDERLINE:
            raise EngineError(
                "a contestant finds other lesions",
                where=name,
                expected=f"alone only what scores below {least_score + BORDERLINE:g}",
                found=f"{len(expected)} and {len(found)} lesions, one alone with {lesion['detection_score']:.3f}",
            )
    return Agreement(len(alone) + len(left), box_off, probability_off)


def summary(outcome: Outcome, ours: str) -> list[dict[str, Any]]:
    """One row a contestant: seconds, and how many times longer than `ours` it took, round by round.

    Ratios of the same round are compared, and their median and range over the rounds are given.
    """
    seconds = {(row["round"], row["contestant"]): row["wall_s"] for row in outcome.rounds}
    numbers = sorted({row["round"] for row in outcome.rounds})
    table = []
    for name in outcome.about:
        own = Spread.of([seconds[n, name] for n in numbers])
        ratio = Spread.of([seconds[n, name] / seconds[n, ours] for n in numbers])
        memory = [row["peak_rss_mib"] for row in outcome.rounds if row["contestant"] == name and row["peak_rss_mib"]]
        table.append(
            {
                "contestant": name,
                "median_s": round(own.median, 3),
                "low_s": round(own.low, 3),
                "high_s": round(own.high, 3),
                "ratio_median": round(ratio.median, 3),
                "ratio_low": round(ratio.low, 3),
                "ratio_high": round(ratio.high, 3),
                "peak_rss_mib": max(memory) if memory else "",
                "lesions": outcome.about[name]["lesions"],
                "borderline_alone": outcome.about[name]["borderline_alone"],
                "box_off_mm": round(outcome.about[name]["box_off_mm"], 2),
                "probability_off": round(outcome.about[name]["probability_off"], 4),
                "rounds": len(numbers),
            }
        )
    return table


def stages(outcome: Outcome, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row a stage: the busy seconds of each of `names` (median and range over the rounds).

    Of two, also how many times longer the second worked, compared in the same round. Stages overlap: their seconds
    are no parts of the exam's.
    """
    busy = {(row["round"], row["contestant"]): row["stages_ms"] for row in outcome.rounds}
    numbers = sorted({row["round"] for row in outcome.rounds})
    known = dict.fromkeys(stage for name in names for n in numbers for stage in busy[n, name])
    table = []
    for stage in known:
        of = {name: [busy[n, name].get(stage, 0.0) / 1e3 for n in numbers] for name in names}
        row: dict[str, Any] = {"stage": stage}
        for name, seconds in of.items():
            spread, prefix = Spread.of(seconds), f"{name}_" if len(names) > 1 else ""
            row |= {f"{prefix}{k}_s": round(getattr(spread, k), 3) for k in ("median", "low", "high")}
        if len(names) == 2 and all(of[names[0]]):
            ratio = Spread.of([b / a for a, b in zip(*of.values(), strict=True)])
            row |= {f"ratio_{k}": round(getattr(ratio, k), 3) for k in ("median", "low", "high")}
        elif len(names) == 2:
            row |= dict.fromkeys(("ratio_median", "ratio_low", "ratio_high"), "")
        table.append(row)
    return table


def without_stages(rounds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rounds as lines of a table."""
    return [{key: value for key, value in row.items() if key != "stages_ms"} for row in rounds]


def standard_file(shape: tuple[int, int, int], seed: int, work: Path) -> Path:
    """The DICOM file of a phantom, made once and kept in `work`.

    Raises
    ------
    OutputError
        `work` cannot be written.
    """
    from scanside.demo import write_phantom

    folder = work / f"phantom-{seed}-{'x'.join(map(str, shape))}"
    exam = folder / "exam.dcm"
    if not (folder / "truth.json").is_file() or not exam.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError("the exam cannot be kept", where=folder, found=error.strerror) from error
        exam, _ = write_phantom(folder, seed=seed, shape=shape)
    return exam


def _distance(a: Sequence[float], b: Sequence[float]) -> float:
    return float(np.linalg.norm(np.subtract(a, b)))
