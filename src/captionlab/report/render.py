"""The comparison as CSV, Markdown and HTML, without photos and reference captions.

Names and captions come from users, so they are escaped in HTML and Markdown, and characters that change the direction
of text or control a terminal are replaced.
"""

import csv
import dataclasses
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from captionlab.core.results.photos import PhotoCaptions
from captionlab.report import diagnostics, figures, further_scores, judgments
from captionlab.report.results import Results, Row, Run
from captionlab.report.table import Table
from captionlab.report.tables import (
    SYSTEM_NAMES,
    decodings_table,
    every_table,
    further_tables,
    head,
    headline,
    main_table,
    ranked,
)

ALL = "comparison-all.md"  # in the folder of comparison.md

_MARKS = re.compile(r"[\\`*|<>\[\]]|(?<![^\W_])_|_(?![^\W_])")  # underscores inside words need no escape
# control characters and line ends; marks, embeddings, overrides and isolates of UAX #9; joiners are kept
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def visible(value: Any) -> Any:
    """Text with each invisible character replaced by U+FFFD; Markup and other values unchanged."""
    return _INVISIBLE.sub("\ufffd", value) if isinstance(value, str) and not isinstance(value, Markup) else value


_HTML = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    finalize=visible,
)


def breakable(name: str) -> Markup:
    """A name with possible line breaks after dots and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])", visible(name)))


_HTML.filters["breakable"] = breakable


def page(template: str, **values: Any) -> str:
    """Render a template of this package; values are escaped unless they are Markup."""
    return _HTML.get_template(template).render(system_names=SYSTEM_NAMES, colours=figures.COLOURS, **values) + "\n"


def comparison_csv(results: Results) -> str:
    """Every configuration, decoding and protocol in the order of params.yaml, then people, then the reference rows."""
    columns = [field.name for field in dataclasses.fields(Row)]
    measured = (row for run in results.runs for row in run.rows)
    people = [results.people] if results.people else []
    rows = itertools.chain(measured, people, *results.references.values())
    return _csv(columns, ([_plain(getattr(row, column)) for column in columns] for row in rows))


def captions_csv(results: Results, captions: Sequence[tuple[Run, Sequence[PhotoCaptions]]]) -> str:
    """The caption of each test photo by every configuration in its best decoding, without references.

    Retrieved captions are quoted from the training split, so they are included for the built-in dataset only.
    """
    own = results.manifest.format == "scenes"
    return _csv(
        ["image", "configuration", "decoding", "caption"],
        (
            [entry.image, run.name, run.best_decoding, entry.captions[run.best_decoding].caption]
            for run, entries in captions
            if own or not run.quotes
            for entry in entries
        ),
    )


def comparison_markdown(results: Results) -> str:
    """The main page in Markdown: the best configurations, the figures and links to the other tables."""
    linked = [f"- [{table.title}]({ALL}#{_anchor(table.title)})" for table in _linked(results)]
    parts = [
        f"# {_escaped(results.manifest.name)}: comparison of the systems",
        _facts(results),
        *_markdown_table(main_table(results)),
        "![BLEU-1 to 4 of the best configurations](bleu.png)",
        "![Loss and accuracy of the best configurations over the epochs](curves.png)",
        "More tables:",
        "\n".join(linked),
        "All rows with all digits: [comparison.csv](comparison.csv). The generated captions: "
        "[captions.csv](captions.csv). `comparison.html` has tables to sort and filter. `gallery/index.html`, which is "
        "not kept in git, shows photos with their captions.",
    ]
    return "\n\n".join(parts) + "\n"


def further_markdown(results: Results) -> str:
    """The second page in Markdown: the tables that the main page links to."""
    title = f"# {_escaped(results.manifest.name)}: all tables"
    parts = [title, _facts(results), "The best configurations: [comparison.md](comparison.md)."]
    return "\n\n".join([*parts, *(part for table in _linked(results) for part in _markdown_table(table))]) + "\n"


def comparison_html(results: Results) -> str:
    """The comparison as a self-contained HTML page."""
    return page(
        "comparison.html.j2",
        name=results.manifest.name,
        head=head(results),
        best=ranked(results.runs)[0].row(),
        main=decodings_table(results),
        further=_further(results),
        systems=list(dict.fromkeys(run.system for run in results.runs)),
        bleu=Markup(figures.svg(figures.bleu, results.runs)),
        curves=Markup(figures.svg(figures.curves, results.runs)),
    )


def _linked(results: Results) -> list[Table]:
    """All tables except the main one; the first has all configurations, if the main one shows only some."""
    some = len(headline(results.runs)) < len(results.runs)
    return [*([every_table(results)] if some else []), decodings_table(results), *_further(results)]


def _further(results: Results) -> list[Table]:
    return [
        *diagnostics.tables(results),
        *judgments.tables(results),
        *further_scores.tables(results),
        *further_tables(results),
    ]


def _facts(results: Results) -> str:
    return " · ".join(f"{label}: {_escaped(value)}" for label, value in head(results))


def _markdown_table(table: Table) -> list[str]:
    ruler = ["--:" if column.numeric else "---" for column in table.columns]
    lines = [_pipes(_escaped(column.label) for column in table.columns), _pipes(ruler)]
    for line in table.lines:
        cells = []
        for column in table.columns:
            text = _escaped(table.text(line, column))
            cells.append(f"**{text}**" if table.is_best(line, column) else text)
        lines.append(_pipes(cells))
    return [f"## {_escaped(table.title)}", *table.notes, "\n".join(lines)]


def _anchor(title: str) -> str:
    """The URL fragment that Markdown renderers derive from a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Escape a name for Markdown and HTML."""
    return _MARKS.sub(r"\\\g<0>", visible(text))


def _plain(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return out.getvalue()
