"""The notebooks as they are stored. ``test_docs`` executes them."""

import nbformat

from repository import ROOT

QUICKSTART = ROOT / "notebooks/quickstart.ipynb"
LARGEST = 300_000  # bytes


def test_the_quickstart_is_small_and_has_its_outputs() -> None:
    text = QUICKSTART.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    cells = [cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells[1:])
    assert not any(found.output_type == "error" for cell in cells for found in cell.outputs)
