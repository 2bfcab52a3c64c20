"""The comparison as CSV, Markdown and HTML. Results in, text out; holds no photo and no reference caption."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from captionlab.report import figures
from captionlab.report.results import Results, Row, Run
from captionlab.report.tables import SYSTEM_NAMES, Table, all_rows, further_tables, head, main_table

_HTML = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

_MARKS = re.compile(r"[\\`*|<>\[\]]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is plain text


def page(template: str, **values: Any) -> str:
    """A template of this package as a page; every value is escaped unless it is Markup."""
    return _HTML.get_template(template).render(system_names=SYSTEM_NAMES, colours=figures.COLOURS, **values) + "\n"


def comparison_csv(results: Results) -> str:
    """Every row: each system, configuration, decoding and protocol, then the reference rows. Scores from 0 to 1."""
    columns = [field.name for field in dataclasses.fields(Row)]
    return _csv(columns, ([_plain(getattr(row, column)) for column in columns] for row in all_rows(results)))


def captions_csv(captions: Sequence[tuple[Run, Sequence[Mapping[str, Any]]]]) -> str:
    """What every configuration's best decoding said of each test photo; no reference is among it."""
    return _csv(
        ["image", "configuration", "decoding", "caption"],
        (
            [entry["image"], run.name, run.best_decoding, entry["captions"][run.best_decoding]["caption"]]
            for run, entries in captions
            for entry in entries
        ),
    )


def comparison_markdown(results: Results) -> str:
    """The comparison for a reader of the repository, with the figures that lie beside it."""
    facts = " · ".join(f"{label}: {_escaped(value)}" for label, value in head(results))
    parts = [
        f"# {_escaped(results.manifest['name'])}: the systems compared",
        facts,
        *_markdown_table(main_table(results)),
        "![BLEU-1 to 4 of every configuration](bleu.png)",
        "![Loss and accuracy of every configuration over the epochs](curves.png)",
    ]
    for table in further_tables(results):
        parts += [
            "<details>",
            f"<summary>{table.title}</summary>",
            *_markdown_table(table, heading=False),
            "</details>",
        ]
    parts.append(
        "All of this, exactly: [comparison.csv](comparison.csv). What the systems said: [captions.csv](captions.csv). "
        "The same with tables to sort and filter: `comparison.html`; photos with their captions: `gallery/index.html`, "
        "which is written beside it and not kept in git."
    )
    return "\n\n".join(parts) + "\n"


def comparison_html(results: Results) -> str:
    """The comparison as one page that needs no other file and no network."""
    return page(
        "comparison.html.j2",
        name=results.manifest["name"],
        head=head(results),
        main=main_table(results),
        further=further_tables(results),
        systems=list(dict.fromkeys(run.system for run in results.runs)),
        bleu=Markup(figures.svg(figures.bleu, results.runs)),
        curves=Markup(figures.svg(figures.curves, results.runs)),
    )


def _markdown_table(table: Table, heading: bool = True) -> list[str]:
    ruler = ["---" if column.kind == "text" else "--:" for column in table.columns]
    lines = [_pipes(column.label for column in table.columns), _pipes(ruler)]
    for row in table.rows:
        cells = []
        for column in table.columns:
            text = _escaped(column.text(row))
            cells.append(f"**{text}**" if table.is_best(row, column) else text)
        lines.append(_pipes(cells))
    return [*([f"## {table.title}"] if heading else []), *table.notes, "\n".join(lines)]


def _pipes(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    """Keep a name from being read as Markdown or HTML."""
    return _MARKS.sub(r"\\\g<0>", text)


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
