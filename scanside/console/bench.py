"""The verbs of `scanside bench`. Everything heavy is imported inside the verb that needs it.

What verbs have in common stands once, in `Options`; a verb names the groups it takes and where its defaults differ.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

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
    from threading import Event

    from scanside.bench.measurement import Measurement
    from scanside.bench.plan import Plan
    from scanside.console.progress import StageProgress
    from scanside.engine.predictor import Predictor

bench_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure time and memory, with intervals, on this machine. The answers of the timed runs are checked.",
    epilog="""\b
Examples:
  scanside bench exam                             the standard exam, file to findings
  scanside bench live                             a sweep in real time: seconds from the last frame to the report
  scanside bench section --percentiles 50,99 --json
  scanside bench cold --cache cold                from process start to the first section
""",
)
STANDARD = "318x600x800"


class Cache(StrEnum):
    """What the system remembers of the files when a process starts."""

    warm = "warm"
    cold = "cold"


class Scenario(StrEnum):
    """What LoadGen drives."""

    section = "section"
    exam = "exam"
    volume = "volume"


@dataclass(frozen=True)
class Options:
    """Options that several verbs take."""

    exam: Annotated[
        Path | None,
        typer.Option("--exam", metavar="EXAM", help="An exam of one volume; a phantom of --shape if absent."),
    ] = None
    shape: Annotated[str, typer.Option("--shape", metavar="SWEEPxDEPTHxLATERAL", help="Size of the phantom.")] = (
        STANDARD
    )
    pack: PackOption = None
    device: DeviceOption = Device.auto
    precision: PrecisionOption = Precision.auto
    policy: PolicyOption = Policy.exact
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all usable cores if absent.")] = None
    allow_uncertified: UncertifiedOption = False
    percentiles: Annotated[str, typer.Option("--percentiles", metavar="P,P,...", help="Which ones to report.")] = "50"
    repetitions: Annotated[
        int | None, typer.Option("--repetitions", min=1, help="Timed runs; what the percentiles need if absent.")
    ] = None
    warm_up: Annotated[int, typer.Option("--warm-up", help="Untimed runs before.")] = 1
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the spread of the samples (png, svg, pdf).")
    ] = None
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Write the median run as a Chrome trace.")
    ] = None
    json: JsonOption = False
    quiet: QuietOption = False

    @property
    def how(self) -> dict[str, Any]:
        """How the pack is loaded."""
        return {
            "pack": self.pack,
            "device": self.device.value,
            "precision": self.precision.value,
            "policy": self.policy.value,
            "threads": self.threads,
            "allow_uncertified": self.allow_uncertified,
        }

    @property
    def plan(self) -> Plan:
        """How often is measured."""
        from scanside.bench.plan import Plan
        from scanside.console.options import percents_from

        return Plan.of(percents_from(self.percentiles), repetitions=self.repetitions, warm_up=self.warm_up)


WHAT = ("exam", "shape")
HOW = ("pack", "device", "precision", "threads", "allow_uncertified")
POLICY = ("policy",)
REPEATED = ("percentiles", "repetitions", "warm_up")
TRACE = ("trace",)
SHOWN = ("plot", "json", "quiet")


def _verb(*groups: tuple[str, ...], **defaults: object) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A verb of `bench_app`: called with `Options`, and with what its own parameters after that one ask for."""

    def add(work: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(Options, include_extras=True)
        names = [name for group in groups for name in group]
        shared = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(name, getattr(Options, name)),
                annotation=hints[name],
            )
            for name in names
        ]
        own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]

        def verb(**given: Any) -> None:
            work(Options(**{name: given.pop(name) for name in names}), **given)

        verb.__name__, verb.__doc__ = work.__name__, work.__doc__
        verb.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined] # what Typer reads
        bench_app.command()(verb)
        return verb

    return add


@_verb(WHAT, HOW, POLICY, REPEATED, TRACE, SHOWN)
def exam(options: Options) -> None:
    """A whole exam, from its file to its findings.

    Reports percentiles with 95 % intervals, the time to the first section and to the first finding, the stages'
    times, how well they overlap, and peak memory. The findings of the timed runs must equal the first run's.
    """
    from scanside.bench.exam import bench_exam

    with _measuring(options, "exam") as run:
        predictor, file = run.predictor(), run.exam()
        found = bench_exam(predictor, file, run.plan, progress=run.repetition, cancel=run.cancel)
    _show(options, found)


@_verb(
    WHAT,
    HOW,
    REPEATED,
    SHOWN,
    percentiles="50,90,95,99",
    warm_up=20,
)
def section(
    options: Options,
    plane: Annotated[SectionPlane, typer.Option(help="Which sections.")] = SectionPlane.transverse,
    batch: Annotated[int, typer.Option(min=1, help="How many at once.")] = 1,
) -> None:
    """One section: native slice, square pixels, probability, components.

    Also says how many operations a second that is, and the share of what a large matrix product of the same precision
    reaches on the same cores.
    """
    from scanside.bench.parts import bench_section

    with _measuring(options, "section") as run:
        predictor, file = run.predictor(), run.exam()
        found = bench_section(predictor, file, run.plan, plane=plane.value, batch=batch, progress=run.repetition)
    _show(options, found)


@_verb(WHAT, HOW, REPEATED, SHOWN, percentiles="50,90,95", warm_up=10)
def triplet(
    options: Options,
    batch: Annotated[int, typer.Option(min=1, help="How many at once.")] = 1,
) -> None:
    """One triplet: crops of three planes, then the probability."""
    from scanside.bench.parts import bench_triplet

    with _measuring(options, "triplet") as run:
        predictor, file = run.predictor(), run.exam()
        found = bench_triplet(predictor, file, run.plan, batch=batch, progress=run.repetition)
    _show(options, found)


@_verb(WHAT, HOW, POLICY, REPEATED, TRACE, SHOWN, policy=Policy.confirm)
def live(
    options: Options,
    rate: Annotated[float, typer.Option(min=0.01, help="Frames a second; 5.3 is a standard sweep of a minute.")] = 5.3,
) -> None:
    """A sweep in real time: from its last frame to the report.

    Replays an exam at the scanner's rate. Also says when the first finding was told, the sections and triplets still
    to do after the last frame, how late frames were pushed, and what memory does from sweep to sweep. Every sweep must
    find what the offline analysis finds under the same policy.
    """
    from scanside.bench.live import bench_live

    with _measuring(options, "live") as run:
        predictor, file = run.predictor(), run.exam()
        found = bench_live(predictor, file, run.plan, rate=rate, progress=run.repetition, cancel=run.cancel)
    _show(options, found)


@_verb(HOW, REPEATED, SHOWN)
def cold(
    options: Options,
    cache: Annotated[Cache, typer.Option(help="cold makes the system forget the files first.")] = Cache.warm,
) -> None:
    """From a new process to its first section, in parts."""
    from scanside.bench.cold import bench_cold

    with _measuring(options, "cold") as run:
        found = bench_cold(options.how, run.plan, cache=cache.value, progress=run.repetition)
    _show(options, found)


@_verb(WHAT, HOW, POLICY, ("json", "quiet"))
def loadgen(
    options: Options,
    what: Annotated[Scenario, typer.Argument(help="SingleStream for section and exam, Offline for volume.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for LoadGen's logs.")],
    seconds: Annotated[float, typer.Option(help="Least duration; MLPerf's official runs take 600.")] = 10.0,
    queries: Annotated[int, typer.Option(min=1, help="Least number of queries (not for volume).")] = 100,
) -> None:
    """Let MLPerf LoadGen measure (pip install "scanside[bench]")."""
    from scanside.bench.loadgen import require_loadgen, run_loadgen
    from scanside.console.tables import print_loadgen

    require_loadgen()
    with _measuring(options, what.value) as run:
        predictor, file = run.predictor(), run.exam()
        result = run_loadgen(predictor, file, what.value, out, seconds=seconds, queries=queries)
    print_loadgen(result, json=options.json)


class _Run:
    """What a verb measures with, made when it is asked for and gone when the verb is over."""

    def __init__(self, options: Options, what: str, progress: StageProgress, cancel: Event, opened: ExitStack) -> None:
        self.plan, self.cancel = options.plan, cancel
        self._options, self._what, self._progress, self._opened = options, what, progress, opened

    def repetition(self, done: int, total: int) -> None:
        """Show how far it is."""
        self._progress.advance(self._what, done, total)

    def predictor(self) -> Predictor:
        """The loaded pack: before the exam, so that what cannot run is refused before a phantom is made."""
        import scanside

        return self._opened.enter_context(scanside.load(**self._options.how))

    def exam(self) -> Path:
        """The exam's file."""
        from scanside.bench.exam import standard_exam
        from scanside.console.options import shape_from

        if self._options.exam is not None:
            return self._options.exam
        shape = shape_from(self._options.shape)
        return self._opened.enter_context(standard_exam(shape, stages=self._progress.advance))


@contextmanager
def _measuring(options: Options, what: str) -> Iterator[_Run]:
    """Refuse now what would fail after the measuring, then measure."""
    from scanside.bench.plot import require_matplotlib
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.exam.write import require_writable

    if options.plot is not None:
        require_matplotlib()
    for path in (options.plot, options.trace):
        if path is not None:
            require_writable(path)
    with Stop() as stop, StageProgress(quiet=options.quiet) as progress, ExitStack() as opened:
        yield _Run(options, what, progress, stop.event, opened)


def _show(options: Options, found: Measurement) -> None:
    """Print it and write the files."""
    from scanside.bench.measurement import write_trace
    from scanside.bench.plot import plot_measurement
    from scanside.console.tables import print_measurement

    command = shlex.join(["scanside", *sys.argv[1:]])
    found = replace(found, conditions={**found.conditions, "command": command})
    if options.trace is not None:
        write_trace(found, options.trace)
    if options.plot is not None:
        plot_measurement(found, options.plot)
    print_measurement(found, json=options.json)
