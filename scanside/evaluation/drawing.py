"""How figures look: one palette that colour-blind readers can tell apart, one type size, one way to save."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito."""

LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))
LEVEL_COLOURS = {"junior": "#D55E00", "middle": "#E69F00", "senior": "#009E73"}
LEVEL_MARKERS = {"junior": "o", "middle": "s", "senior": "^"}
GREY = "#7f7f7f"
DPI = 300


@dataclass(frozen=True)
class Drawing:
    """A figure and the numbers in it.

    Attributes
    ----------
    name : str
        File name without suffix.
    caption : str
        For the summary.
    figure : matplotlib Figure
        Drawn.
    data : dict
        File name without suffix to the records of that CSV.
    """

    name: str
    caption: str
    figure: Figure
    data: Mapping[str, tuple[Mapping[str, Any], ...]]


@contextmanager
def style() -> Iterator[None]:
    """The look of every figure, inside this block only."""
    import matplotlib

    look: dict[Any, Any] = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "legend.fontsize": 8,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "scanside",
    }
    with matplotlib.rc_context(look):
        yield


def panels(rows: int, columns: int, panel_inches: tuple[float, float]) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a grid of axes, without any global state."""
    from matplotlib.figure import Figure

    size = (columns * panel_inches[0], rows * panel_inches[1])
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def square(axes: Axes, x: str, y: str) -> None:
    """Axes of two proportions."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x, ylabel=y, aspect="equal")
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.grid(color="#e5e5e5", linewidth=0.6)
    axes.set_axisbelow(True)


def image(drawing: Drawing, kind: str) -> bytes:
    """The figure as `png` or `svg`; the bytes depend on the data alone."""
    out = io.BytesIO()
    with style():
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        drawing.figure.savefig(out, format=kind, dpi=DPI, metadata=metadata)
    return out.getvalue()
