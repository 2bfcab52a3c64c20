"""Learning curves and bar charts with matplotlib; the same results give the same bytes. Knows no files.

PNG on white for Markdown; SVG for the HTML page, with the page's colours in light and dark mode.
"""

import io
import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from captionlab.config import SECTIONS
from captionlab.report.results import Row, Run
from captionlab.report.tables import headline

# The colour-blind safe palette of Okabe and Ito; further systems share the last colour
_PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
COLOURS = {system: _PALETTE[min(i, len(_PALETTE) - 1)] for i, system in enumerate(SECTIONS)}
_INK, _FAINT = "#1f2430", "#c9cdd6"
_CSS = {_INK: "var(--ink)", _FAINT: "var(--faint)"} | {colour: f"var(--{name})" for name, colour in COLOURS.items()}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the output does not depend on installed fonts
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlesize": 9,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.color": _INK,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.08,
    "svg.fonttype": "path",
}
_CURVE_COLUMNS = 4

Draw = Callable[[Sequence[Run]], Figure]


def png(draw: Draw, runs: Sequence[Run]) -> bytes:
    """The figure as a PNG on white, without date and version."""
    out = io.BytesIO()
    with _style():
        FigureCanvasAgg(figure := draw(runs))
        _fix_layout(figure)
        figure.savefig(out, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def svg(draw: Draw, runs: Sequence[Run]) -> str:
    """The figure as an ``<svg>`` element for a page that defines ``--ink``, ``--faint`` and the systems' colours."""
    out = io.StringIO()
    with _style(draw.__name__):
        FigureCanvasSVG(figure := draw(runs))
        _fix_layout(figure)
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    for colour, variable in _CSS.items():
        text = text.replace(colour, variable)
    return text[text.index("<svg") :]


def _fix_layout(figure: Figure) -> None:
    """Lay the figure out once, to a millionth of its size.

    The solver's last digits depend on the order of sets, which Python changes from run to run, and the ids in an SVG
    depend on all digits.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(float(side), 6) for side in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


@contextmanager
def _style(salt: str = "captionlab") -> Iterator[None]:
    # the salt makes the ids of several figures in one page distinct
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's matplotlibrc must not change the output
        mpl.rcParams.update(_STYLE)
        mpl.rcParams["svg.hashsalt"] = salt
        yield


def bleu(runs: Sequence[Run]) -> Figure:
    """Bar chart of BLEU-1 to 4: one row for each of the best configurations, in its best decoding, all on one scale."""
    rows = [run.row() for run in reversed(headline(runs))]  # the first row is on top
    values = [[float(getattr(row, f"bleu_{n}") or 0.0) for row in rows] for n in (1, 2, 3, 4)]
    room = 0.3 * max(max(values[0]), 0.1)  # space for the number of the longest bar
    spans = [max(column) + room for column in values]
    figure = Figure(figsize=(10, 1.1 + 0.36 * len(rows)), layout="constrained")
    panels = figure.subplots(1, 4, sharey=True, squeeze=False, gridspec_kw={"width_ratios": spans})[0]
    for n, (axes, column, span) in enumerate(zip(panels, values, spans, strict=True), 1):
        bars = axes.barh(range(len(rows)), column, height=0.68, color=[COLOURS[row.system] for row in rows])
        axes.bar_label(bars, fmt="%.3f", padding=3)
        axes.set_title(f"BLEU-{n}", loc="left", fontweight="bold")
        axes.set_xlim(0, span)
        axes.set_xticks([])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(rows)), [_bar_label(row) for row in rows])
    figure.supxlabel(
        "test split, strict protocol, the decoding that validation chose; all bars start at zero and share one scale",
        fontsize=8,
    )
    return figure


def curves(runs: Sequence[Run]) -> Figure:
    """Loss and token accuracy over epochs: two panels per configuration, best first, with the others in grey."""
    runs = headline([run for run in runs if run.history])  # without retrieval and ensembles, which are not trained
    bands = math.ceil(len(runs) / _CURVE_COLUMNS)
    # A constant width, so that the title fits and the page shows all figures at one scale.
    figure = Figure(figsize=(2.4 * _CURVE_COLUMNS + 0.6, 3.7 * bands + 0.5), layout="constrained")
    grid = figure.subplots(2 * bands, _CURVE_COLUMNS, squeeze=False)
    for axes in grid.flat[:]:
        axes.set_visible(False)
    for place, run in enumerate(runs):
        band, column = divmod(place, _CURVE_COLUMNS)
        for offset, (quantity, label) in enumerate((("loss", "loss (nats per word)"), ("accuracy", "token accuracy"))):
            axes = grid[2 * band + offset, column]
            axes.set_visible(True)
            _panel(axes, quantity, run, runs)
            if column == 0:
                axes.set_ylabel(label)
            else:
                axes.tick_params(labelleft=False)
            if offset == 0:
                axes.set_title(textwrap.fill(run.name, 26), loc="left", fontweight="bold")  # fits the panel's width
                axes.tick_params(labelbottom=False)
            else:
                axes.set_xlabel("epoch")
    figure.suptitle(
        "solid: validation, with a dot at the epoch that was kept; dashed: training; grey: other configurations",
        fontsize=8,
    )
    return figure


def _panel(axes: Axes, quantity: str, run: Run, runs: Sequence[Run]) -> None:
    for other in runs:
        axes.plot(other.history["epoch"], other.history[f"val_{quantity}"], color=_FAINT, linewidth=0.6)
    colour = COLOURS[run.system]
    epochs, validation = run.history["epoch"], run.history[f"val_{quantity}"]
    axes.plot(epochs, run.history[f"train_{quantity}"], color=colour, linewidth=1.2, linestyle=(0, (4, 2)))
    axes.plot(epochs, validation, color=colour, linewidth=1.8)
    assert run.best_epoch is not None
    best = epochs.index(run.best_epoch)
    axes.plot(run.best_epoch, validation[best], "o", color=colour, markersize=5)
    above = quantity == "loss"  # on the free side of the curve
    axes.annotate(
        f"{validation[best]:.3f}",
        (run.best_epoch, validation[best]),
        xytext=(0, 6 if above else -7),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
    )
    _share_limits(axes, quantity, runs)


def _share_limits(axes: Axes, quantity: str, runs: Sequence[Run]) -> None:
    """Set the same limits in every panel, so that curves can be compared across configurations."""
    everything = [value for run in runs for split in ("train", "val") for value in run.history[f"{split}_{quantity}"]]
    margin = 0.08 * (max(everything) - min(everything)) or 0.1
    last = max(epoch for run in runs for epoch in run.history["epoch"])
    axes.set_ylim(min(everything) - margin, max(everything) + margin)
    axes.set_xlim(0.5, last + 0.5)
    ticks: Any = range(1, int(last) + 1, max(1, math.ceil(last / 6)))
    axes.set_xticks(ticks)


def _bar_label(row: Row) -> str:
    return f"{row.system}.{row.configuration}  ({row.decoding})"
