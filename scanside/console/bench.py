"""The verbs of `scanside bench`. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scanside.console.choices import (
    Device,
    DeviceOption,
    JsonOption,
    PackOption,
    Policy,
    PolicyOption,
    Precision,
    PrecisionOption,
    QuietOption,
    SectionPlane,
    UncertifiedOption,
)

if TYPE_CHECKING:
    from scanside.bench.measurement import Measurement
    from scanside.bench.plan import OnRepetition
    from scanside.console.progress import StageProgress

bench_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure time and memory, with intervals, on this machine. The answers of the timed runs are checked.",
    epilog="""\b
Examples:
  scanside bench exam                             the standard exam, file to findings
  scanside bench section --percentiles 50,99 --json
  scanside bench cold --cache cold                from process start to the first section
""",
)


class Cache(StrEnum):
    """What the system remembers of the files when a process starts."""

    warm = "warm"
    cold = "cold"


class Scenario(StrEnum):
    """What LoadGen drives."""

    section = "section"
    exam = "exam"
    volume = "volume"


ExamOption = Annotated[
    Path | None, typer.Option("--exam", metavar="EXAM", help="An exam of one volume; a phantom of --shape if absent.")
]
ShapeOption = Annotated[str, typer.Option("--shape", metavar="SWEEPxDEPTHxLATERAL", help="Size of the phantom.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads; all usable cores if absent.")]
PercentilesOption = Annotated[str, typer.Option("--percentiles", metavar="P,P,...", help="Which ones to report.")]
RepetitionsOption = Annotated[
    int | None, typer.Option("--repetitions", min=1, help="Timed runs; what the percentiles need if absent.")
]
WarmUpOption = Annotated[int, typer.Option("--warm-up", help="Untimed runs before.")]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw the spread of the samples (png, svg, pdf).")
]
BatchOption = Annotated[int, typer.Option(min=1, help="How many at once.")]
STANDARD = "318x600x800"


@dataclass(frozen=True)
class _Shown:
    """What a verb does with its measurement."""

    json: bool
    plot: Path | None = None
    trace: Path | None = None

    def prepare(self) -> None:
        """Refuse now what would fail after the measuring."""
        from scanside.bench.plot import require_matplotlib
        from scanside.exam.write import require_writable

        if self.plot is not None:
            require_matplotlib()
        for path in (self.plot, self.trace):
            if path is not None:
                require_writable(path)

    def show(self, measurement: Measurement) -> None:
        """Print it and write the files."""
        from scanside.bench.measurement import write_trace
        from scanside.bench.plot import plot_measurement
        from scanside.console.tables import print_measurement

        if self.trace is not None:
            write_trace(measurement, self.trace)
        if self.plot is not None:
            plot_measurement(measurement, self.plot)
        print_measurement(measurement, json=self.json)


@bench_app.command()
def exam(
    exam: ExamOption = None,
    shape: ShapeOption = STANDARD,
    pack: PackOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    policy: PolicyOption = Policy.exact,
    threads: ThreadsOption = None,
    allow_uncertified: UncertifiedOption = False,
    percentiles: PercentilesOption = "50",
    repetitions: RepetitionsOption = None,
    warm_up: WarmUpOption = 1,
    plot: PlotOption = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write the median run as a Chrome trace.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """A whole exam, from its file to its findings.

    Reports percentiles with 95 % intervals, the time to the first section and to the first finding, the stages'
    times, how well they overlap, and peak memory. The findings of the timed runs must equal the first run's.
    """
    from scanside.bench.exam import bench_exam
    from scanside.bench.plan import Plan
    from scanside.console.options import percents_from

    plan = Plan.of(percents_from(percentiles), repetitions=repetitions, warm_up=warm_up)
    shown = _Shown(json, plot, trace)
    how = _how(pack, device, precision, policy, threads, allow_uncertified)
    with _measuring(shown, quiet, "exam") as run, run.exam(exam, shape) as file, run.predictor(how) as predictor:
        measurement = bench_exam(predictor, file, plan, progress=run.repetition, cancel=run.cancel)
    shown.show(measurement)


@bench_app.command()
def section(
    exam: ExamOption = None,
    shape: ShapeOption = STANDARD,
    plane: Annotated[SectionPlane, typer.Option(help="Which sections.")] = SectionPlane.transverse,
    batch: BatchOption = 1,
    pack: PackOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    threads: ThreadsOption = None,
    allow_uncertified: UncertifiedOption = False,
    percentiles: PercentilesOption = "50,90,95,99",
    repetitions: RepetitionsOption = None,
    warm_up: WarmUpOption = 20,
    plot: PlotOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """One section: native slice, square pixels, probability, components.

    Also says how many operations a second that is, and the share of what a large matrix product of the same precision
    reaches on the same cores.
    """
    from scanside.bench.parts import bench_section
    from scanside.bench.plan import Plan
    from scanside.console.options import percents_from

    plan = Plan.of(percents_from(percentiles), repetitions=repetitions, warm_up=warm_up)
    shown = _Shown(json, plot)
    how = _how(pack, device, precision, Policy.exact, threads, allow_uncertified)
    with _measuring(shown, quiet, "section") as run, run.exam(exam, shape) as file, run.predictor(how) as predictor:
        measurement = bench_section(predictor, file, plan, plane=plane.value, batch=batch, progress=run.repetition)
    shown.show(measurement)


@bench_app.command()
def triplet(
    exam: ExamOption = None,
    shape: ShapeOption = STANDARD,
    batch: BatchOption = 1,
    pack: PackOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    threads: ThreadsOption = None,
    allow_uncertified: UncertifiedOption = False,
    percentiles: PercentilesOption = "50,90,95",
    repetitions: RepetitionsOption = None,
    warm_up: WarmUpOption = 10,
    plot: PlotOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """One triplet: crops of three planes, then the probability."""
    from scanside.bench.parts import bench_triplet
    from scanside.bench.plan import Plan
    from scanside.console.options import percents_from

    plan = Plan.of(percents_from(percentiles), repetitions=repetitions, warm_up=warm_up)
    shown = _Shown(json, plot)
    how = _how(pack, device, precision, Policy.exact, threads, allow_uncertified)
    with _measuring(shown, quiet, "triplet") as run, run.exam(exam, shape) as file, run.predictor(how) as predictor:
        measurement = bench_triplet(predictor, file, plan, batch=batch, progress=run.repetition)
    shown.show(measurement)


@bench_app.command()
def cold(
    cache: Annotated[Cache, typer.Option(help="cold makes the system forget the files first.")] = Cache.warm,
    pack: PackOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    threads: ThreadsOption = None,
    allow_uncertified: UncertifiedOption = False,
    percentiles: PercentilesOption = "50",
    repetitions: RepetitionsOption = None,
    warm_up: WarmUpOption = 1,
    plot: PlotOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """From a new process to its first section, in parts."""
    from scanside.bench.cold import bench_cold
    from scanside.bench.plan import Plan
    from scanside.console.options import percents_from

    plan = Plan.of(percents_from(percentiles), repetitions=repetitions, warm_up=warm_up)
    shown = _Shown(json, plot)
    how = _how(pack, device, precision, Policy.exact, threads, allow_uncertified)
    with _measuring(shown, quiet, "cold") as run:
        measurement = bench_cold(how, plan, cache=cache.value, progress=run.repetition)
    shown.show(measurement)


@bench_app.command()
def loadgen(
    what: Annotated[Scenario, typer.Argument(help="SingleStream for section and exam, Offline for volume.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for LoadGen's logs.")],
    exam: ExamOption = None,
    shape: ShapeOption = STANDARD,
    pack: PackOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    policy: PolicyOption = Policy.exact,
    threads: ThreadsOption = None,
    allow_uncertified: UncertifiedOption = False,
    seconds: Annotated[float, typer.Option(help="Least duration; MLPerf's official runs take 600.")] = 10.0,
    queries: Annotated[int, typer.Option(min=1, help="Least number of queries (not for volume).")] = 100,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let MLPerf LoadGen measure (pip install "scanside[bench]")."""
    from scanside.bench.loadgen import require_loadgen, run_loadgen
    from scanside.console.tables import print_loadgen

    require_loadgen()
    how = _how(pack, device, precision, policy, threads, allow_uncertified)
    with _measuring(_Shown(json), quiet, what) as run, run.exam(exam, shape) as file, run.predictor(how) as predictor:
        result = run_loadgen(predictor, file, what.value, out, seconds=seconds, queries=queries)
    print_loadgen(result, json=json)


def _how(
    pack: Path | None,
    device: Device,
    precision: Precision,
    policy: Policy,
    threads: int | None,
    allow_uncertified: bool,
) -> dict[str, Any]:
    return {
        "pack": pack,
        "device": device.value,
        "precision": precision.value,
        "policy": policy.value,
        "threads": threads,
        "allow_uncertified": allow_uncertified,
    }


class _Run:
    """The exam and the predictor of a verb, and its progress."""

    def __init__(self, progress: StageProgress, cancel: Any, what: str) -> None:
        self._progress, self.cancel, self._what = progress, cancel, what

    @property
    def repetition(self) -> OnRepetition:
        """Called with (done, repetitions)."""
        return lambda done, total: self._progress.advance(self._what, done, total)

    def exam(self, exam: Path | None, shape: str) -> Any:
        """A context that gives the exam's file."""
        from scanside.bench.exam import standard_exam
        from scanside.console.options import shape_from

        if exam is not None:
            return nullcontext(exam)
        return standard_exam(shape_from(shape), stages=self._progress.advance)

    def predictor(self, how: dict[str, Any]) -> Any:
        """A context that gives the loaded pack."""
        import scanside

        return scanside.load(**how)


@contextmanager
def _measuring(shown: _Shown, quiet: bool, what: str) -> Iterator[_Run]:
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop

    shown.prepare()
    with Stop() as stop, StageProgress(quiet=quiet) as progress:
        yield _Run(progress, stop.event, what)
