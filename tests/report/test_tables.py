"""The tables of the report."""

import dataclasses

import pytest

from captionlab.core.results import Compared
from captionlab.report import diagnostics, results, table, tables
from results_tree import toys, write_results


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> results.Results:
    root = tmp_path_factory.mktemp("tables")
    write_results(root, toys())
    return results.load(toys(), root)


def test_a_table_is_made_from_title_columns_and_rows() -> None:
    columns: dict[str, table.Kind] = {"Configuration": "text", "Right photo": "score", "Words": "count"}
    made = table.table("Bias", columns, [("attention.lite2", 0.5, 7), ("baseline.lite0", None, 9)], ["Of the test."])
    shown = [[c.text(value) for c, value in zip(made.columns, line.values, strict=True)] for line in made.lines]
    assert shown == [["attention.lite2", "0.500", "7"], ["baseline.lite0", made.columns[0].missing, "9"]]
    assert [line.system for line in made.lines] == ["attention", "baseline"]
    assert not made.is_best(made.lines[0], made.columns[1])  # the only row of its kind


@pytest.mark.parametrize(("p", "printed"), [
    (1.0, "1.000"), (0.0505, "0.051"), (0.05, "0.050"), (0.0499, "0.050"), (0.0495, "0.050"), (0.0494, "0.049 *"),
    (0.002, "0.002 *"), (0.0005, "0.001 *"), (0.0004, "< 0.001 *"),
])  # fmt: skip
def test_the_star_of_a_p_value_agrees_with_its_digits(p: float, printed: str) -> None:
    assert tables.p_value(p) == printed


def test_every_table_prints_p_values_by_the_same_rule(found: results.Results) -> None:
    borderline = Compared(wins=0.976, p=0.0499)
    pairs = {
        one: {other: dict.fromkeys(scores, borderline) for other, scores in others.items()}
        for one, others in found.diagnostics.pairs.items()
    }
    changed = dataclasses.replace(found, diagnostics=dataclasses.replace(found.diagnostics, pairs=pairs))
    main = tables.main_table(changed)
    place = [column.label for column in main.columns].index("p, row above")
    assert [line.values[place] for line in main.lines] == [None, *["0.050"] * 4]
    differences = next(each for each in diagnostics.tables(changed) if each.title == "Significance of differences")
    printed = {value for line in differences.lines for value in line.values[1:]}
    assert printed == {None, "98% / 0.050"}


def test_the_reports_are_introduced_at_their_first_mention(found: results.Results) -> None:
    introduced: set[str] = set()
    for each in [tables.main_table(found), *diagnostics.tables(found), *tables.further_tables(found)]:
        for note in each.notes:
            for report, author in (("report a", "Hussnain Ashraf"), ("report b", "Hussein Mohamed")):
                if report in note.lower() and report not in introduced:
                    assert author in note
                    introduced.add(report)
    assert introduced == {"report a", "report b"}


def test_numbers_of_a_column_have_the_same_number_of_digits(found: results.Results) -> None:
    shown = [
        column.text(line.values[place])
        for each in diagnostics.tables(found)
        for place, column in enumerate(each.columns)
        if column.kind in ("score", "loss", "share")
        for line in each.lines
        if line.values[place] is not None
    ]
    assert {len(text.partition(".")[2]) for text in shown} == {3}
