"""The figures of the report."""

import io
from collections.abc import Sequence

import pytest
from matplotlib.figure import Figure
from PIL import Image

from captionlab.report import figures, results
from captionlab.report.results import Run
from results_tree import toys, write_results


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Run]:
    root = tmp_path_factory.mktemp("figures")
    write_results(root, toys())
    return results.load(toys(), root).runs


@pytest.mark.parametrize("draw", [figures.bleu, figures.curves])
def test_figures_are_legible_and_have_no_version(draw: figures.Draw, runs: Sequence[Run]) -> None:
    image = figures.png(draw, runs)
    with Image.open(io.BytesIO(image)) as opened:
        assert opened.width >= 1200
        assert "Software" not in opened.info
    assert "var(--attention)" in figures.svg(draw, runs)


@pytest.mark.parametrize("draw", [figures.bleu, figures.curves])
def test_the_layout_is_rounded(draw: figures.Draw, runs: Sequence[Run]) -> None:
    """Its last digits depend on the order of sets, and the ids of an SVG on all digits."""
    drawn: list[Figure] = []
    figures.svg(lambda runs: drawn.append(draw(runs)) or drawn[0], runs)  # type: ignore[func-returns-value]
    for axes in drawn[0].axes:
        bounds = axes.get_position().bounds
        assert all(side == pytest.approx(round(side, 6), abs=1e-12) for side in bounds)
        assert bounds[2] * bounds[3] > 0


def test_the_title_of_the_curves_fits_a_single_run(runs: Sequence[Run]) -> None:
    (first, *_) = (run for run in runs if run.history)
    figure = figures.curves([first])
    figure.draw_without_rendering()
    (line,) = figure.texts
    extent = line.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width


def test_bars_start_at_zero_and_share_one_scale(runs: Sequence[Run]) -> None:
    figure = figures.bleu(runs)
    figure.draw_without_rendering()
    lengths = []
    for axes in figure.axes:
        assert axes.get_xlim()[0] == 0
        assert all(bar.get_extents().x0 == pytest.approx(axes.transData.transform((0, 0))[0]) for bar in axes.patches)
        lengths.append(axes.bbox.width / axes.get_xlim()[1])
    assert max(lengths) / min(lengths) < 1.01
