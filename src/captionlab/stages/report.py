"""Stage ``report``: render tables, figures and a gallery from the scores, histories and captions.

Only ``gallery/`` contains photos and reference captions; the rest can be published with any dataset.
"""

from pathlib import Path

from captionlab.config import Params
from captionlab.core import files, records
from captionlab.core.results.photos import read_photo_captions


def report(params: Params, root: Path) -> list[str]:
    """Write ``reports/<dataset>/``. Raises CaptionlabError if a configuration was not trained or evaluated."""
    from captionlab.report import figures, plot_data, render, results, tables  # matplotlib takes a second to import
    from captionlab.report.gallery import gallery_html

    found = results.load(params, root)
    captions = [(run, read_photo_captions(root, run.name)) for run in found.runs]
    folder = root / records.REPORTS / params.dataset.name
    files.write_text(folder / "comparison.csv", render.comparison_csv(found))
    files.write_text(folder / "comparison.md", render.comparison_markdown(found))
    files.write_text(folder / render.ALL, render.further_markdown(found))
    files.write_text(folder / "comparison.html", render.comparison_html(found))
    files.write_text(folder / "captions.csv", render.captions_csv(found, captions))
    files.write_text(folder / "curves.csv", plot_data.curves_csv(found))
    files.write_text(folder / "scores.csv", plot_data.scores_csv(found))
    for name, draw in (("bleu.png", figures.bleu), ("curves.png", figures.curves)):
        with files.atomic_file(folder / name) as temporary:
            temporary.write_bytes(figures.png(draw, found.runs))
    with files.atomic_folder(folder / "gallery") as gallery:
        page = gallery_html(found, captions, root)
        (gallery / "index.html").write_text(page, encoding="utf-8", newline="\n")
    run = tables.ranked(found.runs)[0]
    best = run.row()
    shown = records.REPORTS / params.dataset.name
    return [
        f"{len(found.runs)} configurations compared; best on validation: {run.name}, {best.decoding}; on test BLEU-4 "
        f"{best.bleu_4 or 0:.3f}, CIDEr {best.cider or 0:.3f}",
        f"open {shown}/comparison.html and {shown}/gallery/index.html",
    ]
