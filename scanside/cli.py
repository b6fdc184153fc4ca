"""The `scanside` command: one thin function a verb. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from scanside.console.bench import bench_app
from scanside.console.choices import (
    Device,
    DeviceOption,
    Format,
    JsonOption,
    PackOption,
    Policy,
    PolicyOption,
    Precision,
    PrecisionOption,
    QuietOption,
    SpacingOption,
    UncertifiedOption,
    Vendor,
)
from scanside.console.errors import Verbs
from scanside.errors import NotBuiltError

NOTICE = "Research use only. Not a medical device."
NOT_BUILT = {
    "train": "train the networks",
    "export": "export trained networks to a pack",
    "calibrate": "calibrate INT8 ranges",
    "build": "build TensorRT plans",
    "parity": "certify a precision against the PyTorch reference",
    "evaluate": "compute the paper's statistics for a cohort",
    "live": "analyse a sweep while it arrives",
}

# Plain help: the coloured kind alone would take more than the time `scanside --help` may take.
app = typer.Typer(
    name="scanside",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Read an automated breast volume scanner (ABVS) exam next to the scanner. {NOTICE}",
    epilog=f"""\b
Examples:
  scanside demo                                a synthetic exam, from pixels to report
  scanside inspect exam.dcm                    will it be read, and why (not)?
  scanside analyze exam.dcm --out result       findings, pictures and masks in result/
  scanside doctor                              what of this machine will be used

\b
Exit codes: 0 done, 1 a bug, 2 usage, 3 bad input, 4 pack, environment or output,
5 parity not met, 130 / 143 interrupted.
Not built yet (exit code 4): {", ".join(NOT_BUILT)}.
""",
)
pack_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at a model pack.")
app.add_typer(pack_app, name="pack")
app.add_typer(bench_app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        from scanside import __version__

        typer.echo(f"scanside {__version__}")
        raise typer.Exit


def _set_debug(wanted: bool) -> None:
    if wanted:
        import os

        os.environ["SCANSIDE_DEBUG"] = "1"


@app.callback()
def scanside(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", callback=_set_debug, is_eager=True, help="Show tracebacks (also SCANSIDE_DEBUG=1)."),
    ] = False,
) -> None:
    """Options before the verb."""


@app.command(
    epilog="""\b
Examples:
  scanside demo
  scanside demo --out somewhere --seed 7
"""
)
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the exam and the report.")] = Path(
        "scanside-demo"
    ),
    seed: Annotated[int, typer.Option(help="Which phantom.")] = 5000,
    shape: Annotated[str, typer.Option(metavar="SWEEPxDEPTHxLATERAL", help="Size of the phantom.")] = "318x600x800",
    pack: PackOption = None,
    quiet: QuietOption = False,
) -> None:
    """A synthetic exam, from pixels to report.

    Makes a full-size synthetic ABVS exam as DICOM, analyses it like any other, and compares the findings with the
    known truth.
    """
    from scanside.console import tables
    from scanside.console.options import shape_from
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.demo import run_demo

    with Stop() as stop, StageProgress(quiet=quiet) as progress:
        shown = run_demo(
            out,
            seed=seed,
            shape=shape_from(shape),
            pack=pack,
            stages=progress.advance,
            progress=progress,
            cancel=stop.event,
        )
    tables.print_demo(shown)
    typer.echo(NOTICE)


@app.command(
    epilog="""\b
Examples:
  scanside analyze exam.dcm --out result
  scanside analyze study/ --out result                    every volume of a study
  scanside analyze DATA_100.nrrd --out result --spacing 0.47,0.07,0.2
  scanside analyze exam.dcm --out result --json --quiet | jq '.lesions[].probability'
"""
)
def analyze(
    exam: Annotated[Path, typer.Argument(metavar="EXAM", help="A file, a folder or a zip.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")],
    pack: PackOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    policy: PolicyOption = Policy.exact,
    spacing: SpacingOption = None,
    allow_uncertified: UncertifiedOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find an exam's lesions; say which look malignant.

    Reads a file, a folder or a zip and writes report.json, masks.nrrd and pictures: one report for a volume, one for
    each volume and a summary for a study. Written whole or not at all.
    """
    import scanside
    from scanside.console import tables
    from scanside.console.options import spacing_from
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.study import analyze_to_folder, require_all_analyzed

    spacing_mm = spacing_from(spacing)
    with Stop() as stop, StageProgress(quiet=quiet) as progress:
        predictor = scanside.load(
            pack,
            device=device.value,
            precision=precision.value,
            policy=policy.value,
            allow_uncertified=allow_uncertified,
        )
        outcome = analyze_to_folder(
            predictor,
            exam,
            out,
            spacing_mm=spacing_mm,
            progress=progress,
            on_volume=progress.next_volume,
            cancel=stop.event,
        )
    tables.print_outcome(outcome, json=json)
    typer.echo(NOTICE, err=json)
    require_all_analyzed(outcome)


@app.command(
    epilog="""\b
Examples:
  scanside inspect exam.dcm
  scanside inspect study/ --json
The exit code is 0 when every volume is ready or degraded, 3 when one is refused.
"""
)
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file, a folder or a zip.")],
    json: JsonOption = False,
    spacing: SpacingOption = None,
) -> None:
    """Say whether an exam can be read, and why not.

    One line a volume: ready, degraded or refused, and the reason. Needs no model pack.
    """
    from scanside.console import tables
    from scanside.console.options import spacing_from
    from scanside.exam.inspect import exit_code
    from scanside.exam.inspect import inspect as inspect_rows

    rows = inspect_rows(path, spacing_mm=spacing_from(spacing))
    tables.print_inspection(rows, json=json)
    raise typer.Exit(exit_code(rows))


@app.command(
    epilog="""\b
Examples:
  scanside phantom out --seed 7
  scanside phantom out --seed 7 --lesions 2 --format dicom --vendor ge
  scanside phantom out --seed 7 --shape 64x128x160 --format nrrd
"""
)
def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the exam and its truth.")],
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")],
    shape: Annotated[str, typer.Option(metavar="SWEEPxDEPTHxLATERAL", help="Voxels.")] = "318x600x800",
    lesions: Annotated[int | None, typer.Option(min=0, max=12, help="How many; by the seed if absent.")] = None,
    format: Annotated[Format, typer.Option(help="File format of the exam.")] = Format.dicom,
    vendor: Annotated[Vendor, typer.Option(help="Whose DICOM header to imitate.")] = Vendor.siemens,
    quiet: QuietOption = False,
) -> None:
    """Make a synthetic exam with known lesions.

    Writes the exam, truth.json and truth_mask.nrrd. The same seed gives the same bytes.
    """
    from scanside.console.options import shape_from
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.demo import write_phantom

    with Stop(), StageProgress(quiet=quiet) as progress:
        exam_file, truth = write_phantom(
            out,
            seed=seed,
            shape=shape_from(shape),
            lesions=lesions,
            format=format.value,
            vendor=vendor.value,
            stages=progress.advance,
        )
    typer.echo(f"{exam_file}: {len(truth)} lesions")


@pack_app.command("info")
def pack_info(
    pack: Annotated[Path | None, typer.Argument(metavar="[PACK]", help="A pack; the shipped one if absent.")] = None,
    json: JsonOption = False,
) -> None:
    """Say what a pack holds and where it comes from."""
    from scanside.console import tables
    from scanside.pack import load_pack

    tables.print_pack(load_pack(pack), json=json)


@pack_app.command("verify")
def pack_verify(
    pack: Annotated[Path | None, typer.Argument(metavar="[PACK]", help="A pack; the shipped one if absent.")] = None,
) -> None:
    """Check a pack: schema, every file's size and SHA-256, and its golden cases on this machine."""
    from scanside.console import tables
    from scanside.engine.predictor import Predictor
    from scanside.pack import load_pack

    whole = load_pack(pack)
    with Predictor(whole, device="cpu", precision="fp32", threads=None) as predictor:
        tables.print_verified(whole, predictor.self_check())


@app.command()
def doctor(json: JsonOption = False, pack: PackOption = None) -> None:
    """Say what of this machine will be used.

    And what is missing, with the remedy. The exit code is 4 when `scanside analyze` cannot run here.
    """
    from scanside.console import tables
    from scanside.doctor import examine

    examination = examine(pack)
    tables.print_doctor(examination, json=json)
    raise typer.Exit(0 if examination.healthy else 4)


def _add_not_built(verb: str, purpose: str) -> None:
    @app.command(
        verb,
        hidden=True,
        help=f"Not built yet: {purpose}.",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def not_built() -> NoReturn:
        raise NotBuiltError(f"`scanside {verb}` is not built yet", remedy="`scanside --help` lists what is")


for _verb, _purpose in NOT_BUILT.items():
    _add_not_built(_verb, _purpose)


def main() -> None:
    """Entry point of the `scanside` command."""
    app()
