"""A picture of one measurement: how its samples spread, and where its percentiles lie with their intervals."""

from __future__ import annotations

import io
from pathlib import Path

from scanside.bench.measurement import Measurement
from scanside.errors import EngineError
from scanside.exam.write import atomic_file

_DESCRIPTION = {"png": "Description", "svg": "Description", "pdf": "Subject"}
"""Where a format keeps what its picture is of."""


def require_matplotlib() -> None:
    """Raise unless plots can be drawn.

    Raises
    ------
    EngineError
        matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise EngineError("matplotlib is not installed", remedy='pip install "scanside[bench]"') from None


def plot_measurement(measurement: Measurement, path: str | Path) -> None:
    """Draw the share of repetitions faster than each time, as PNG or what the file's ending says (svg, pdf).

    The file's metadata say what was measured, when and on which processor.

    Raises
    ------
    EngineError
        matplotlib is not installed.
    OutputError
        The file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    path = Path(path)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(measurement.samples_ms)
    axes.step(ordered, [(i + 1) / len(ordered) for i in range(len(ordered))], where="post", color="tab:blue")
    for p in measurement.percentiles:
        share = p.percent / 100
        axes.errorbar(
            p.value,
            share,
            xerr=[[p.value - p.low], [p.high - p.value]],
            fmt="o",
            color="tab:red",
            capsize=3,
        )
        axes.annotate(
            f"p{p.percent:g} {p.value:.0f} ms" if p.value >= 100 else f"p{p.percent:g} {p.value:.3g} ms",
            (p.value, share),
            (6, -10),
            textcoords="offset points",
        )
    axes.set(xlabel="wall time (ms)", ylabel="share of repetitions", ylim=(0, 1.02), title=measurement.name)
    axes.grid(alpha=0.3)
    image = io.BytesIO()
    kind = path.suffix.lstrip(".").lower() or "png"
    metadata = {_DESCRIPTION[kind]: provenance(measurement)} if kind in _DESCRIPTION else {}
    figure.savefig(image, format=kind, dpi=150, metadata=metadata)
    with atomic_file(path) as file:
        file.write(image.getvalue())


def provenance(measurement: Measurement) -> str:
    """What was measured, with which command, when, and on which processor, in a line."""
    conditions = measurement.conditions
    parts = (
        measurement.name,
        conditions.get("command"),
        conditions.get("date"),
        f"scanside {conditions.get('scanside')}",
        conditions.get("device_name"),
    )
    return "; ".join(str(part) for part in parts if part)
