"""The readable tables: which rows stand in which, in what order, and how a number is written. Knows no file format."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from captionlab.report.results import Results, Row

SYSTEM_NAMES = {
    "baseline": "Baseline",
    "modified": "Modified",
    "attention": "Attention",
    "finetune": "Finetuned",
    "ensemble": "Ensemble",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: ``key`` is a field of Row, or "name" for system and configuration together."""

    key: str
    label: str
    kind: Literal["text", "count", "millions", "megabytes", "score"] = "text"

    def value(self, row: Row) -> str | float | None:
        """The bare value."""
        if self.key != "name":
            value: str | float | None = getattr(row, self.key)
            return value
        if row.measured:
            return f"{row.system}.{row.configuration}"
        return f"{row.system}, {row.configuration}" if row.configuration else row.system

    def text(self, row: Row) -> str:
        """The value as a reader sees it."""
        value = self.value(row)
        if value is None:
            return "n/a (needs Java)" if self.key == "meteor" and row.measured else "–"  # noqa: RUF001 (a dash is meant)
        match self.kind:
            case "millions":
                return f"{float(value) / 1e6:.2f} M"
            case "megabytes":
                return f"{float(value):.1f}"
            case "score":
                return f"{float(value):.3f}"
        return str(value)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under columns, with the sentences that a reader needs to judge them."""

    title: str
    notes: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def is_best(self, row: Row, column: Column) -> bool:
        """Whether this score leads its column among the measured rows; where all are equal, none leads."""
        rivals = [column.value(rival) for rival in self.rows if rival.measured]
        numbers = [value for value in rivals if isinstance(value, float)]
        if column.kind != "score" or not row.measured or len(set(numbers)) < 2:
            return False
        return column.value(row) == (min(numbers) if column.key == "loss" else max(numbers))


_NAME = Column(key="name", label="Configuration")
_SHAPE = (
    Column(key="encoder", label="Encoder"),
    Column(key="input", label="Input", kind="count"),
    Column(key="hidden", label="Hidden", kind="count"),
    Column(key="layers", label="Layers", kind="count"),
)
_SIZE = (
    Column(key="parameters", label="Parameters", kind="millions"),
    Column(key="megabytes", label="MB", kind="megabytes"),
)
_EPOCHS = Column(key="epochs", label="Epochs", kind="count")
_DECODING = Column(key="decoding", label="Decoding")
_BLEU = tuple(Column(key=f"bleu_{n}", label=f"BLEU-{n}", kind="score") for n in (1, 2, 3, 4))
_REST = (
    Column(key="rouge_l", label="ROUGE-L", kind="score"),
    Column(key="cider", label="CIDEr", kind="score"),
    Column(key="meteor", label="METEOR", kind="score"),
)
_LOSS = (Column(key="loss", label="Loss", kind="score"), Column(key="accuracy", label="Accuracy", kind="score"))
_SOURCE = Column(key="source", label="Stated in")


def head(results: Results) -> list[tuple[str, str]]:
    """What was scored, and how: label and value."""
    manifest, signature = results.manifest, results.signature
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest["splits"].items())
    return [
        ("Dataset", manifest["name"]),
        ("Photos", f"{manifest['images']:,} with {manifest['captions']:,} captions"),
        ("Digest", manifest["digest"]),
        ("Splits", splits),
        ("Scored", f"test split, strict protocol, at most {signature['max_words']} words"),
        ("Length penalty", f"log probability / words ^ {signature['length_penalty']}"),
        ("CIDEr idf", signature["idf"]),
    ]


def main_table(results: Results) -> Table:
    """The best decoding of every configuration, best CIDEr first."""
    rows = sorted((run.row() for run in results.runs), key=lambda row: -_number(row.cider))
    return Table(
        title="Best decoding of every configuration",
        notes=(
            "The decoding was chosen by CIDEr on the validation split, never on the test split. Strict protocol: every "
            "reference, lowercase, no punctuation, corpus level, no start, end or unknown word counted.",
            "All scores stand on the scale from 0 to 1 (papers often print them times 100), CIDEr-D on 0 to 10. Loss "
            "(nats a word) and accuracy are of the next word, given the true words before it.",
        ),
        columns=(_NAME, _DECODING, *_BLEU, *_REST, *_LOSS, *_SHAPE, *_SIZE, _EPOCHS),
        rows=tuple(rows),
    )


def further_tables(results: Results) -> list[Table]:
    """All decodings; each report's protocol beside its own numbers; the literature."""
    strict = [row for run in results.runs for row in run.rows if row.protocol == "strict"]
    stated = (_NAME, _DECODING, *_BLEU, *_LOSS, *_SHAPE, _EPOCHS, _SOURCE)
    return [
        Table(
            title="Every decoding",
            notes=("The test split under the strict protocol, in the order of params.yaml.",),
            columns=(_NAME, _DECODING, *_BLEU, *_REST),
            rows=tuple(strict),
        ),
        Table(
            title="Under report A's protocol",
            notes=(
                "Our captions scored as report A scored its own, with start and end words counted, beside the numbers "
                "that it states. It prints one BLEU without its order; its function's default is BLEU-4. Its photos, "
                "split and number of references are partly unstated, its losses have another vocabulary, and its "
                "System 1 is our baseline.",
            ),
            columns=stated,
            rows=_beside(results, "report_a"),
        ),
        Table(
            title="Under report B's protocol",
            notes=(
                "Our captions scored as report B scored its own, beside the numbers that it states: the words startseq "
                "and endseq counted, one-letter words dropped, and BLEU-3 with weights that sum to 0.9. Its loss has "
                "another vocabulary.",
            ),
            columns=stated,
            rows=_beside(results, "report_b"),
        ),
        Table(
            title="What the literature states for Flickr8k",
            notes=(
                "On Flickr8k's 1,000 test photos, each under its own protocol, so not to be ranked against the strict "
                "scores above. Early papers differ in tokenisation, and some leave out BLEU's brevity penalty; the "
                "encoders differ too. CIDEr depends on the references that its idf is taken from.",
            ),
            columns=(_NAME, Column(key="encoder", label="Encoder"), _DECODING, *_BLEU, *_REST, _SOURCE),
            rows=results.references["literature"],
        ),
    ]


def _beside(results: Results, protocol: Literal["report_a", "report_b"]) -> tuple[Row, ...]:
    ours = sorted((run.row(protocol) for run in results.runs), key=lambda row: -_number(row.bleu_4))
    return (*ours, *results.references[protocol])


def _number(score: float | None) -> float:
    return -math.inf if score is None else score


def all_rows(results: Results) -> Sequence[Row]:
    """Every row of the CSV: ours in the order of params.yaml, then the reference rows."""
    ours = [row for run in results.runs for row in run.rows]
    return ours + [row for rows in results.references.values() for row in rows]
