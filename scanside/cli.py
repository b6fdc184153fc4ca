"""The `scanside` command: one thin function a verb. Everything heavy is imported inside the verb that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scanside.console.bench import bench_app
from scanside.console.choices import (
    Backbone,
    CalibrateOption,
    Device,
    DeviceOption,
    Format,
    HeatmapsOption,
    JsonOption,
    JudgedPrecision,
    LicenceOption,
    Method,
    NameOption,
    Network,
    PackOption,
    PlanPrecision,
    Policy,
    PolicyOption,
    Precision,
    PrecisionOption,
    QuietOption,
    Reference,
    SectionPlane,
    SpacingOption,
    Stride,
    UncertifiedOption,
    Variant,
    Vendor,
    VersionOption,
)
from scanside.console.errors import Verbs

if TYPE_CHECKING:
    from scanside.engine.predictor import Predictor

NOTICE = "Research use only. Not a medical device."

# Plain help: the coloured kind alone would take more than the time `scanside --help` may take.
app = typer.Typer(
    name="scanside",
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=f"Read an automated breast volume scanner (ABVS) exam next to the scanner. {NOTICE}",
    epilog="""\b
Examples:
  scanside demo                                a synthetic exam, from pixels to report
  scanside inspect exam.dcm                    will it be read, and why (not)?
  scanside analyze exam.dcm --out result       findings, pictures and masks in result/
  scanside doctor                              what of this machine will be used
  scanside evaluate predictions.csv --out eval the paper's statistics for a cohort

\b
Exit codes: 0 done, 1 a bug, 2 usage, 3 bad input, 4 pack, environment or output,
5 parity not met, 130 / 143 interrupted.
""",
)
pack_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at a model pack, or make one.")
app.add_typer(pack_app, name="pack")
cohort_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make phantoms and store what training needs of them."
)
app.add_typer(cohort_app, name="cohort")
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


def _loaded(
    pack: Path | None,
    device: Device,
    precision: Precision,
    policy: Policy,
    allow_uncertified: bool,
    heatmaps: bool,
) -> Predictor:
    import scanside

    return scanside.load(
        pack,
        device=device.value,
        precision=precision.value,
        policy=policy.value,
        allow_uncertified=allow_uncertified,
        explain="gradcam" if heatmaps else "none",
    )


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
  scanside analyze exam.dcm --out result --heatmaps       and where the classifier looked
  scanside analyze exam.dcm --out result --policy confirm
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
    heatmaps: HeatmapsOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find an exam's lesions; say which look malignant.

    Reads a file, a folder or a zip and writes report.json, masks.nrrd and pictures: one report for a volume, one for
    each volume and a summary for a study. Written whole or not at all.
    """
    from scanside.console import tables
    from scanside.console.options import spacing_from
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.study import analyze_to_folder, require_all_analyzed

    spacing_mm = spacing_from(spacing)
    with Stop() as stop, StageProgress(quiet=quiet) as progress:
        predictor = _loaded(pack, device, precision, policy, allow_uncertified, heatmaps)
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
  scanside live incoming/ --out result --frames 318           a folder that fills with DICOM files
  scanside live incoming/ --out result --frames 318 --spacing 0.53,0.1,0.19         ... with PNG files
  scanner-export | scanside live - --out result --json        raw frames on standard input
A raw stream is one line of JSON, {"shape": [318, 600, 800], "spacing_mm": [0.53, 0.1, 0.19]}, then the frames.
A file called `end` ends a folder's sweep. The exit code is 3 when frames are missing; the report says so too.
"""
)
def live(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A folder that fills, or - for standard input.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the report.")],
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of the sweep, where the source does not say.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds of silence after the first frame that end the sweep.")
    ] = 10.0,
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the first frame.")] = 600.0,
    pack: PackOption = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = Precision.auto,
    policy: PolicyOption = Policy.confirm,
    spacing: SpacingOption = None,
    allow_uncertified: UncertifiedOption = False,
    heatmaps: HeatmapsOption = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line an event on stdout.")] = False,
    quiet: QuietOption = False,
) -> None:
    """Analyse a sweep while the scanner makes it.

    Findings appear as the sweep passes them, and the report is written after the last frame.
    """
    from scanside.console.live import LiveLines, LiveTable
    from scanside.console.options import spacing_from
    from scanside.console.stop import Stop
    from scanside.exam.incoming import opener
    from scanside.live import live_to_folder, require_complete

    spacing_mm = spacing_from(spacing)
    with Stop() as stop, LiveLines() if json else LiveTable(quiet=quiet) as shown:
        predictor = _loaded(pack, device, precision, policy, allow_uncertified, heatmaps)
        outcome = live_to_folder(
            predictor,
            opener(source, frames=frames, spacing_mm=spacing_mm, timeout_s=timeout, wait_s=wait, cancel=stop.event),
            out,
            progress=shown.on_progress,
            on_lesions=shown.on_lesions,
            cancel=stop.event,
        )
        shown.on_report(outcome.report)
    typer.echo(NOTICE, err=json)
    require_complete(outcome)


@app.command(
    epilog="""\b
Examples:
  scanside inspect exam.dcm
  scanside inspect study/ --json
  scanside inspect pack/segmenter.onnx                                     layers and precisions of a graph
  scanside inspect ~/.cache/scanside/plans/segmenter-fp32-sm86-....plan    what a TensorRT plan holds
The exit code is 0 when every volume is ready or degraded, 3 when one is refused.
"""
)
def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="An exam (file, folder or zip), an ONNX graph or a plan.")
    ],
    json: JsonOption = False,
    spacing: SpacingOption = None,
) -> None:
    """Say whether an exam can be read, and why not; or what is in a graph or a plan.

    One line a volume: ready, degraded or refused, and the reason. Needs no model pack. Of a graph (.onnx): its layers,
    their precision, rounding and activation memory; needs the train extra. Of a TensorRT plan (.plan): its layers,
    precisions and memory.
    """
    from scanside.console import tables

    if path.suffix.lower() == ".onnx":
        from scanside.console.workshop import workshop

        with workshop("inspect GRAPH"):
            from scanside.calibration.graph_report import graph_reports

        tables.print_graphs(graph_reports(path), json=json)
        return
    if path.suffix.lower() == ".plan":
        from scanside.engine.tensorrt.inspect import inspect_plan

        tables.print_plan(inspect_plan(path), json=json)
        return
    from scanside.console.options import spacing_from
    from scanside.exam.inspect import exit_code
    from scanside.exam.inspect import inspect as inspect_rows

    rows = inspect_rows(path, spacing_mm=spacing_from(spacing))
    tables.print_inspection(rows, json=json)
    raise typer.Exit(exit_code(rows))


@app.command(
    epilog="""\b
Examples:
  scanside lint pack/
  scanside lint segmenter.onnx --json
"""
)
def lint(
    path: Annotated[Path, typer.Argument(metavar="GRAPH|PACK", help="An ONNX file, or a pack's folder.")],
    json: JsonOption = False,
) -> None:
    """Say what keeps a graph from running fast in 8 bits.

    Operations that stay in higher precision and why, pairs that break a fusion, likely reformats, and the activation
    memory of every precision by an estimate. Needs the train extra.
    """
    from scanside.console import tables
    from scanside.console.workshop import workshop

    with workshop("lint"):
        from scanside.calibration.graph_report import graph_reports

    tables.print_lint(graph_reports(path), json=json)


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


@app.command(
    epilog="""\b
Examples:
  scanside calibrate PACK --data exams/ --out PACK2
  scanside calibrate PACK --data phantom:3000:3016 --out PACK2 --test-cases held-out.txt
A killed run goes on where it was when started again. Needs the train extra.
"""
)
def calibrate(
    pack: Annotated[Path, typer.Argument(metavar="PACK", help="The pack to calibrate.")],
    data: Annotated[
        list[str], typer.Option("--data", metavar="EXAM", help="An exam, or phantom:FIRST:END. Repeat for more.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="PACK2", help="Folder for the calibrated pack.")],
    method: Annotated[Method | None, typer.Option(help="Range estimator; each network's own if absent.")] = None,
    sections: Annotated[int, typer.Option(min=1, help="How many sections in all.")] = 480,
    triplets: Annotated[int, typer.Option(min=1, help="How many triplets of crops in all.")] = 240,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same selection.")] = 0,
    test_cases: Annotated[
        Path | None, typer.Option("--test-cases", metavar="LIST", help="Cases never to calibrate on, one a line.")
    ] = None,
    ranges: Annotated[
        Path | None, typer.Option("--ranges", metavar="DIR", help="Reviewed NETWORK.ranges.json to take as they are.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="NETWORK:BLOCK", help="A block to leave out of 8 bits. Repeat for more."),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Give a pack INT8 and FP16 graphs.

    Selects sections and crops, observes what the networks' tensors hold, places the rounding by TensorRT's rules, and
    writes a pack with the ranges and the selection in it. Written whole or not at all.
    """
    from scanside.console import tables
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.console.workshop import workshop

    with workshop("calibrate"):
        from scanside.calibration.command import calibrate_pack

    with Stop(), StageProgress(quiet=quiet) as progress:
        made = calibrate_pack(
            pack,
            data,
            out,
            method=None if method is None else method.value,
            sections=sections,
            triplets=triplets,
            seed=seed,
            test_cases=test_cases,
            ranges=ranges,
            keep=keep or (),
            stages=progress.advance,
        )
    tables.print_calibrated(made)


@app.command(
    epilog="""\b
Examples:
  scanside parity PACK --data COHORT --out parity
  scanside parity PACK --data COHORT --out parity --against pytorch --reference weights/ --precision bf16
  scanside parity PACK --data COHORT --out parity --exams phantom:5000:5008
COHORT is a folder that `scanside cohort lesions --part parity` or `scanside cohort phantoms` made.
A killed run goes on where it was when started again. The exit code is 5 where parity is not met.
"""
)
def parity(
    pack: Annotated[Path, typer.Argument(metavar="PACK", help="The pack to judge.")],
    data: Annotated[
        list[Path], typer.Option("--data", metavar="COHORT", help="A folder of cohort files. Repeat for more.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for parity.json.")],
    against: Annotated[Reference, typer.Option(help="PyTorch in FP32, or the engine's own FP32.")] = Reference.fp32,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="PyTorch weights, NETWORK.safetensors; the pack's own where absent."),
    ] = None,
    device: DeviceOption = Device.auto,
    precision: Annotated[
        list[JudgedPrecision] | None,
        typer.Option("--precision", help="What is judged. Repeat for more; all that runs here if absent."),
    ] = None,
    network: Annotated[list[Network] | None, typer.Option("--network", help="Which network; both if absent.")] = None,
    exams: Annotated[
        list[str] | None,
        typer.Option("--exams", metavar="EXAM", help="A whole exam, or phantom:FIRST:END. Repeat for more."),
    ] = None,
    sections: Annotated[int, typer.Option(min=1, help="The most sections a plane of a case.")] = 12,
    rounds: Annotated[int, typer.Option(min=100, max=100_000, help="Bootstrap rounds.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 2025,
    work: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keeps the networks' answers; DIR/work of --out if absent.")
    ] = None,
    into_pack: Annotated[
        bool, typer.Option("--into-pack", help="Keep the certificates in the pack, not in the user's data folder.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Certify a precision against its reference.

    Paired differences in AUC, probability, verdicts, masks and components, on the same cases through both. What meets
    the gate runs from then on without --allow-uncertified. Needs the eval extra, and train with --against pytorch.
    """
    from scanside.console import tables
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.console.workshop import workshop
    from scanside.pack import load_pack
    from scanside.parity.certify import Settings, certify, require_met

    with Stop(), StageProgress(quiet=quiet) as progress, workshop("parity --against pytorch"):
        outcome = certify(
            load_pack(pack),
            data,
            out,
            Settings(
                against=against.value,
                device=device.value,
                precisions=tuple(p.value for p in precision or ()),
                networks=tuple(n.value for n in network or ()),
                reference=reference,
                sections=sections,
                rounds=rounds,
                seed=seed,
                exams=tuple(exams or ()),
            ),
            work=work,
            into_pack=into_pack,
            stages=progress.advance,
        )
    tables.print_parity(outcome, json=json)
    require_met(outcome)


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


@pack_app.command(
    "create",
    epilog="""\b
Examples:
  scanside pack create --out pack --segmenter unet.safetensors --segmenter-mean 0.45 --segmenter-std 0.226 \\
      --classifier fusion2.safetensors --classifier-mean 0.45 --classifier-std 0.226 --size 224
  scanside pack create --out pack --segmenter unet.pth --segmenter-mean 0.485,0.456,0.406 \\
      --segmenter-std 0.229,0.224,0.225 --backbone vgg19 --classifier-transverse t.pth \\
      --classifier-sagittal s.pth --classifier-coronal c.pth --classifier-mean 0.5 --classifier-std 0.25 --size 224
""",
)
def pack_create(
    out: Annotated[Path, typer.Option("--out", metavar="PACK", help="Folder of the pack.")],
    segmenter: Annotated[
        Path, typer.Option(metavar="FILE", help="State dict of SMP's Unet efficientnet-b0: .safetensors, .pt or .pth.")
    ],
    segmenter_mean: Annotated[str, typer.Option(metavar="M[,M,M]", help="Its input: (x / 255 - mean) / std.")],
    segmenter_std: Annotated[str, typer.Option(metavar="S[,S,S]", help="As fractions, not of 255.")],
    classifier_mean: Annotated[str, typer.Option(metavar="M[,M,M]", help="The classifier's input, likewise.")],
    classifier_std: Annotated[str, typer.Option(metavar="S[,S,S]", help="The classifier's input, likewise.")],
    size: Annotated[int, typer.Option(min=32, max=1024, help="Pixels of the classifier's square crops.")],
    classifier: Annotated[
        Path | None, typer.Option(metavar="FILE", help="State dict of torchvision (one plane) or of a whole fusion.")
    ] = None,
    classifier_transverse: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One file a plane: their probabilities are averaged.")
    ] = None,
    classifier_sagittal: Annotated[Path | None, typer.Option(metavar="FILE", help="Likewise.")] = None,
    classifier_coronal: Annotated[Path | None, typer.Option(metavar="FILE", help="Likewise.")] = None,
    backbone: Annotated[Backbone, typer.Option(help="The classifier's network.")] = Backbone.resnet50,
    variant: Annotated[
        Variant | None, typer.Option(help="What --classifier holds; fusion2 if absent.", show_default=False)
    ] = None,
    stride: Annotated[Stride, typer.Option(help="Where the ResNet strides; torchvision's do at 3x3.")] = Stride.threes,
    planes: Annotated[
        list[SectionPlane] | None,
        typer.Option("--plane", help="A plane to segment, again for more; the classifier's own if absent."),
    ] = None,
    pitch: Annotated[float, typer.Option(min=0.05, max=5, help="Pixel of a section in mm.")] = 0.66,
    every: Annotated[float, typer.Option(min=0.05, max=5, help="Distance of sections in mm.")] = 0.5,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Probability from which a pixel is lesion.")] = 0.5,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Smallest detection score of a lesion.")] = 0.5,
    min_size: Annotated[float, typer.Option(min=0, max=100, help="Smallest lesion in mm.")] = 3.0,
    smoothing: Annotated[float, typer.Option(min=0, max=5, help="Smoothing of the planes' vote in mm.")] = 0.0,
    margin: Annotated[float, typer.Option(min=1, max=10, help="Side of a crop over the lesion's.")] = 1.35,
    frames: Annotated[int, typer.Option(min=1, max=256, help="Triplets a lesion.")] = 8,
    name: NameOption = "own",
    version: VersionOption = "1",
    licence: LicenceOption = "not stated",
    calibrate: CalibrateOption = None,
    quiet: QuietOption = False,
) -> None:
    """Make a pack of your own trained networks.

    Takes plain state dicts as they are, says what does not match, and proves the graphs against PyTorch. Needs the
    train extra. Classes are benign, malignant in this order, or one logit for malignant.
    """
    from scanside.console import tables
    from scanside.console.options import classifier_files, fractions_from
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.console.workshop import workshop
    from scanside.pack import load_pack

    files = classifier_files(
        classifier,
        {"transverse": classifier_transverse, "sagittal": classifier_sagittal, "coronal": classifier_coronal},
    )
    segmenter_input = (
        fractions_from(segmenter_mean, "--segmenter-mean"),
        fractions_from(segmenter_std, "--segmenter-std"),
    )
    classifier_input = (
        fractions_from(classifier_mean, "--classifier-mean"),
        fractions_from(classifier_std, "--classifier-std"),
    )
    with workshop("pack create"):
        from scanside.calibration.command import calibrated
        from scanside.pack_from_weights import Normalisation, OwnWeights, PackParameters, pack_from_weights
    with Stop(), StageProgress(quiet=quiet) as progress:

        def make(folder: Path) -> Path:
            return pack_from_weights(
                folder,
                OwnWeights(
                    segmenter,
                    files,
                    Normalisation(*segmenter_input),
                    Normalisation(*classifier_input),
                    backbone=backbone.value,
                    variant=variant.value if variant else None,
                    stride_at=stride.value,
                ),
                name=name,
                version=version,
                licence=licence,
                parameters=PackParameters(
                    pitch_mm=pitch,
                    every_mm=every,
                    threshold=threshold,
                    min_lesion_mm=min_size,
                    min_detection_score=min_score,
                    smoothing_mm=smoothing,
                    crop_size=size,
                    margin=margin,
                    frames=frames,
                ),
                planes=tuple(plane.value for plane in planes) if planes else None,
                progress=progress.advance,
            )

        made = calibrated(make, out, calibrate or (), stages=progress.advance)
    tables.print_pack(load_pack(made), json=False)


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


@app.command(
    epilog="""\b
Examples:
  scanside evaluate predictions.csv --out evaluation
  scanside evaluate predictions.csv --out evaluation --readers readers.csv
  scanside evaluate predictions.csv --out evaluation --model ResNet50 --planes fusion2
\b
PREDICTIONS.csv   case, label, probability
                  optional: patient, cohort, size_mm, age, histology, model, planes
READERS.csv       case, reader, level, planes, assisted, birads
                  optional: reading_time_s
DETECTIONS.csv    volume, lesion, score; optional: size_mm
docs/evaluation.md explains every column.
"""
)
def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS.csv", help="What the model said of each case.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the tables and figures.")],
    readers: Annotated[
        Path | None, typer.Option("--readers", metavar="READERS.csv", help="What radiologists said.")
    ] = None,
    detections: Annotated[
        Path | None, typer.Option("--detections", metavar="DETECTIONS.csv", help="Lesions found in whole volumes.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model to compare the others and the readers with; the first if absent.")
    ] = None,
    planes: Annotated[str | None, typer.Option(help="And its planes; the first if absent.")] = None,
    rounds: Annotated[int, typer.Option(min=100, max=100_000, help="Bootstrap rounds.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap. Same seed, same bytes.")] = 2025,
) -> None:
    """Judge predictions as the paper judges.

    Writes the paper's Tables 1 to 6, Figures 3 and 6, and a summary.md to paste from, for any cohort. Needs
    pip install "scanside[eval]".
    """
    from scanside.console import tables
    from scanside.evaluation.evaluate import evaluate_to_folder

    evaluation = evaluate_to_folder(
        predictions,
        out,
        readers=readers,
        detections=detections,
        model=model,
        planes=planes,
        rounds=rounds,
        seed=seed,
    )
    tables.print_evaluation(evaluation, out)
    typer.echo(NOTICE)


@app.command(
    epilog="""\b
Examples:
  scanside train segmenter --data COHORT --data BUSBRA --out run
  scanside train classifier --data COHORT --imagenet WEIGHTS --out run
  scanside train paper --data LESIONS --out run
  scanside train my-recipe.toml --data TDSC-ABUS --out run
  scanside train segmenter --data MINE --start earlier/segmenter.safetensors --out run
Run it again to continue a stopped training.
"""
)
def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="segmenter, classifier, paper, tables, or the path of a .toml file.")
    ],
    data: Annotated[list[Path], typer.Option("--data", metavar="DIR", help="A data set; may be given several times.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for weights, split, log and checkpoint.")],
    imagenet: Annotated[
        Path | None, typer.Option("--imagenet", metavar="DIR", help="ResNet50 weights (Keras layout) to start from.")
    ] = None,
    start: Annotated[
        list[Path] | None,
        typer.Option(
            "--start",
            metavar="FILE",
            help="Trained weights to start from: the same network's, or for a fusion each plane's, given one by one.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget in steps, instead of the recipe's.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes, instead of the recipe's.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that cut volumes into sections and crops.")] = 2,
    quiet: QuietOption = False,
) -> None:
    """Train a network by a recipe.

    Data sets are known by their layout: a phantom cohort, BUS-BRA, TDSC-ABUS 2023, BUSI, or exams with masks and a
    cases.csv. Needs the `train` extra.
    """
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.console.workshop import workshop

    with workshop("train"):
        from scanside.training.process import denormals_flushed
        from scanside.training.run import train_recipe

    with Stop(), StageProgress(quiet=quiet) as progress, denormals_flushed():
        weights = train_recipe(
            recipe,
            data,
            out,
            imagenet=imagenet,
            start=start or (),
            workers=workers,
            progress=progress,
            seed=seed,
            steps=steps,
            minutes=minutes,
        )
    typer.echo(str(weights))


@app.command(
    epilog="""\b
Examples:
  scanside export run --out mypack
  scanside export run/classifier.safetensors --out mypack --base otherpack
  scanside export run --out mypack --calibrate phantom:3000:3016      INT8 and FP16 graphs as well
"""
)
def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="The --out of a training, or one .safetensors file of it.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="PACK", help="Folder of the pack.")],
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="PACK", help="Gives what was not trained; the shipped one if absent."),
    ] = None,
    calibrate: CalibrateOption = None,
    name: NameOption = "own",
    version: VersionOption = "1",
    licence: LicenceOption = "not stated",
    quiet: QuietOption = False,
) -> None:
    """Make a pack of networks that `scanside train` trained.

    The record beside the weights says what network they are. A network that was not trained, and the operating point,
    are the base pack's. Proves the graphs against PyTorch. Written whole or not at all. Needs the train extra.
    """
    from scanside.console import tables
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.console.workshop import workshop
    from scanside.pack import load_pack

    with workshop("export"):
        from scanside.calibration.command import calibrated
        from scanside.pack_from_training import pack_from_training
    with Stop(), StageProgress(quiet=quiet) as progress:

        def make(folder: Path) -> Path:
            return pack_from_training(
                checkpoint, folder, base=base, name=name, version=version, licence=licence, progress=progress.advance
            )

        made = calibrated(make, out, calibrate or (), stages=progress.advance)
    tables.print_pack(load_pack(made), json=False)


@cohort_app.command("phantoms")
def cohort_phantoms(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the cohort.")],
    seeds: Annotated[
        str, typer.Option(metavar="FIRST:END", help="Half-open range of seeds; 1000:3000 is for training.")
    ],
    lesions: Annotated[str, typer.Option(metavar="FEWEST:MOST", help="Lesions a phantom.")] = "2:9",
    workers: Annotated[int, typer.Option(min=0, help="Processes.")] = 2,
    quiet: QuietOption = False,
) -> None:
    """Whole exams: sections for the segmenter and crops for the classifier."""
    from scanside.console.options import range_from
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.training.cohort import build_cohort

    first, end = range_from("--seeds", seeds)
    with Stop(), StageProgress(quiet=quiet) as progress:
        files = build_cohort(
            out,
            range(first, end),
            lesions=range_from("--lesions", lesions),
            workers=workers,
            progress=lambda done, total: progress.advance("phantoms", done, total),
        )
    typer.echo(f"{out}: {len(files)} phantoms")


@cohort_app.command("lesions")
def cohort_lesions(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the cohort.")],
    part: Annotated[
        list[str] | None,
        typer.Option("--part", help="train, validation, test, external-b, external-c, parity; all if absent."),
    ] = None,
    difficulty: Annotated[float, typer.Option(min=0, max=1, help="How far the classes' looks overlap.")] = 0.0,
    workers: Annotated[int, typer.Option(min=0, help="Processes.")] = 2,
    quiet: QuietOption = False,
) -> None:
    """Lesions without their exams, in the paper's numbers: three hospitals, crops for the classifier."""
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.training.lesion_cohort import build_lesion_cohort

    with Stop(), StageProgress(quiet=quiet) as progress:
        files = build_lesion_cohort(
            out,
            part,
            difficulty=difficulty,
            workers=workers,
            progress=lambda done, total: progress.advance("lesions", done, total),
        )
    typer.echo(f"{out}: {len(files)} lesions")


@app.command(
    epilog="""\b
Examples:
  scanside build                                   for the GPU of this machine
  scanside build --target SM86,SM89,SM120          for other machines' GPUs, without one
  scanside build mypack --precision fp16 --batch 1:8:16 --json
"""
)
def build(
    pack: Annotated[Path | None, typer.Argument(metavar="[PACK]", help="A pack; the shipped one if absent.")] = None,
    target: Annotated[
        str, typer.Option(metavar="SM86,...|current", help="Compute capabilities, or the GPU at hand.")
    ] = "current",
    precision: Annotated[
        PlanPrecision, typer.Option(help="auto builds fp32 and fp16, and int8 of a calibrated pack.")
    ] = PlanPrecision.auto,
    batch: Annotated[
        str | None, typer.Option(metavar="MIN:OPT:MAX", help="Items a run; as the pack says if absent.")
    ] = None,
    workspace: Annotated[
        int | None, typer.Option("--workspace", metavar="MB", min=1, help="The most scratch memory of a kernel.")
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build TensorRT plans from a pack, into this user's cache.

    A plan that is there already is not built again. Named targets need TensorRT for RTX and no GPU.
    """
    from scanside.console import tables
    from scanside.console.progress import StageProgress
    from scanside.console.stop import Stop
    from scanside.engine.tensorrt.plans import build_pack, targets_from
    from scanside.engine.tensorrt.profiles import Batch
    from scanside.pack import load_pack

    targets, items = targets_from(target), None if batch is None else Batch.parse(batch)
    with Stop() as stop, StageProgress(quiet=quiet) as progress:
        rows = tuple(
            build_pack(
                load_pack(pack),
                targets=targets,
                precision=precision.value,
                batch=items,
                workspace_mb=workspace,
                progress=progress.advance,
                cancel=stop.event,
            )
        )
    tables.print_plans(rows, json=json)


def main() -> None:
    """Entry point of the `scanside` command."""
    app()
