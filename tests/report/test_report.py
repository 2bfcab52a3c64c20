"""The report of a small artifacts tree with drawn photos."""

import csv
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from builders import write_small_manifest
from captionlab.config import Params
from captionlab.core.params import GuestParams
from captionlab.core.records import EVALUATION, MODELS
from captionlab.core.results import DecodedScores, read_evaluation, read_training, write_evaluation, write_training
from captionlab.core.results.further_scores import read_further_scores, write_further_scores
from captionlab.core.results.photos import (
    SaidCaption,
    read_gallery,
    read_photo_captions,
    write_photo_captions,
)
from captionlab.errors import CaptionlabError
from captionlab.report import results, tables
from captionlab.report.render import comparison_markdown
from captionlab.report.table import ABOVE_PEOPLE
from captionlab.stages.report import report
from results_tree import QUOTED, toys, write_results

COLUMNS = set(
    """system encoder embedding hidden layers parameters megabytes epochs decoding bleu_1 bleu_2 bleu_3 bleu_4 rouge_l
    cider meteor source configuration protocol loss accuracy image val_cider bleu_4_low
    bleu_4_high cider_low cider_high above_people""".split()
)
TEXTS = ("comparison.csv", "comparison.md", "comparison-all.md", "comparison.html", "captions.csv")
PUBLISHED = (*TEXTS, "curves.csv", "scores.csv", "curves.png", "bleu.png")


@pytest.fixture
def params() -> Params:
    return toys()


@pytest.fixture
def root(params: Params, tmp_path: Path) -> Path:
    write_results(tmp_path, params)
    return tmp_path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with its report, for reading only."""
    root = tmp_path_factory.mktemp("published")
    write_results(root, toys())
    report(toys(), root)
    return root


def csv_rows(root: Path, name: str = "comparison.csv") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((root / "reports/toys" / name).read_text("utf-8"))))


class Page(HTMLParser):
    """The cells of every table, the images, and every URL that the page loads or links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.images.append(dict(attrs))
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data


def test_the_csv_has_all_decodings_and_protocols_then_reference_rows(published: Path) -> None:
    rows = csv_rows(published)
    assert set(rows[0]) == COLUMNS
    ours = [row for row in rows if row["source"] == "measured"]
    assert len(ours) == 5 * 3 * 3
    assert len({(r["system"], r["configuration"], r["decoding"], r["protocol"]) for r in ours}) == len(ours)
    assert {row["protocol"] for row in ours} == {"strict", "report_a", "report_b"}
    best = next(r for r in ours if (r["system"], r["decoding"], r["protocol"]) == ("attention", "beam 5", "strict"))
    assert (best["bleu_1"], best["cider"], best["meteor"]) == ("0.510000", "0.630000", "")
    assert (best["parameters"], best["epochs"], best["loss"]) == ("256000", "8", "2.800000")
    assert best["val_cider"] == "0.540000"  # of beam 5; the chosen beam 3 has 0.6
    assert {row["val_cider"] for row in ours if row["protocol"] != "strict"} == {""}
    own = rows[len(ours) :]
    assert {row["protocol"] for row in own} == {"own"}
    assert all(row["source"] not in ("", "measured") for row in own)


def test_reference_rows_equal_their_sources() -> None:
    rows = results.reference_rows()
    assert {name: len(own) for name, own in rows.items()} == {"report_a": 10, "report_b": 2, "literature": 7}
    grid = [
        (r.encoder, r.embedding, r.hidden, r.layers, r.bleu_4) for r in rows["report_a"] if r.configuration == "grid"
    ]
    assert grid == [
        ("resnet18", 512, 512, 1, 0.064),
        ("resnet50", 128, 256, 1, 0.071),
        ("resnet50", 512, 512, 1, 0.070),
        ("resnet152", 256, 1024, 1, 0.065),
        ("resnet152", 512, 512, 2, 0.091),
    ]
    adaptive = next(row for row in rows["literature"] if row.system.startswith("Adaptive"))
    assert (adaptive.bleu_4, adaptive.meteor, adaptive.rouge_l, adaptive.cider) == (0.235, 0.207, 0.476, 0.589)
    for row in (row for own in rows.values() for row in own):
        stated = [getattr(row, f"bleu_{n}") for n in (1, 2, 3, 4)] + [row.meteor, row.rouge_l, row.cider, row.accuracy]
        assert all(0 < score < 1 for score in stated if score is not None)


def test_the_main_table_is_ranked_by_cider_on_validation(published: Path) -> None:
    markdown = (published / "reports/toys/comparison.md").read_text("utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[2:]] == [
        "attention.lite2", "baseline.lite2_wide", "baseline.lite0", "modified.lite2", "retrieval.lite2"
    ]  # fmt: skip
    assert [row[1] for row in rows[2:]] == ["beam 3"] * 4 + ["3 neighbours"]
    assert [row[2] for row in rows[2:]] == ["**0.600**", "0.510", "0.480", "0.420", "0.300"]
    assert [row[8] for row in rows[2:]] == ["0.600", "0.510", "0.480", "**0.660**", "0.300"]  # modified is best on test
    assert {row[9] for row in rows[2:]} == {"n/a (needs Java)"}
    equal_rouge_l = False
    assert ["**" in cell for cell in rows[5][2:12]] == [False, *[True] * 4, equal_rouge_l, True, *[False] * 3]
    assert "0123456789abcdef" in markdown
    assert "references of the scored split" in markdown


def test_the_closing_line_names_the_best_on_validation(params: Params, root: Path) -> None:
    assert report(params, root)[0] == (
        "5 configurations compared; best on validation: attention.lite2, beam 3; on test BLEU-4 0.200, CIDEr 0.600"
    )


def test_the_html_table_has_every_decoding_best_on_validation_first(published: Path) -> None:
    rows = Page((published / "reports/toys/comparison.html").read_text("utf-8")).rows[1:16]
    shown = [(row[0].strip(), row[1], float(row[2])) for row in rows]
    assert len(set(shown)) == 15
    assert shown[0] == ("attention.lite2", "beam 3", 0.6)
    assert [cider for _, _, cider in shown] == sorted((cider for _, _, cider in shown), reverse=True)
    html = (published / "reports/toys/comparison.html").read_text("utf-8")
    assert html.count('class="other"') == 15 - 5
    # modified has the best scores on test with beam 5, but only its chosen beam 3 can be the best
    assert 'class="number best">0.660<' in html
    assert 'class="number">0.690<' in html


@pytest.mark.slow
def test_more_than_twenty_configurations_have_a_separate_table(params: Params, root: Path) -> None:
    lite0 = params.baseline["lite0"]
    sizes = {f"lite{i}": dataclasses.replace(lite0, hidden=8 + i) for i in range(23)}
    many = dataclasses.replace(params, baseline=sizes, guests={"friend": GuestParams(captions="friend.json")})
    write_results(root, many)
    report(many, root)
    short = (root / "reports/toys/comparison.md").read_text("utf-8")
    assert sum(line.startswith("|") for line in short.splitlines()) == 2 + tables.MAIN_ROWS + 1
    assert "| guests.friend |" in short  # although without captions of validation it comes last
    long = (root / "reports/toys/comparison-all.md").read_text("utf-8")
    headings = [line.removeprefix("## ") for line in long.splitlines() if line.startswith("## ")]
    for anchor in re.findall(r"\(comparison-all\.md#([\w-]+)\)", short):
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert headings[:2] == ["Best decoding of every configuration", "Every decoding of every configuration"]
    every = long.split("## ")[1].splitlines()
    assert sum(line.startswith("|") for line in every) == 2 + 27
    assert long.count("| greedy |") == 25  # all but retrieval
    with Image.open(root / "reports/toys/bleu.png") as bars, Image.open(root / "reports/toys/curves.png") as curves:
        assert bars.height < 1500
        assert curves.height < 3500


def test_only_the_gallery_has_references_and_photos(params: Params, published: Path) -> None:
    folder = published / "reports/toys"
    assert {path.name for path in folder.iterdir()} == {*PUBLISHED, "gallery"}
    for name in PUBLISHED:
        content = (folder / name).read_bytes()
        for forbidden in (b"quagga", b"xylophone", b"image/jpeg", b"on green grass"):
            assert forbidden not in content, name
    shown = (folder / "gallery/index.html").read_text("utf-8")
    assert "The quagga &lt;b&gt;sleeps&lt;/b&gt; beside a xylophone." in shown
    assert "<b>" not in shown
    assert "a a &lt;unk&gt;" in shown
    assert shown.count("data:image/jpeg") == params.report.gallery
    assert shown.count('class="word"') == shown.count("data:image/png") > params.report.gallery


def test_captions_csv_has_one_caption_per_photo_and_configuration(published: Path) -> None:
    rows = csv_rows(published, "captions.csv")
    assert len(rows) == 12 * 4
    assert rows[0] == {
        "image": "00.jpg",
        "configuration": "baseline.lite0",
        "decoding": "beam 3",
        "caption": "a dog runs over the grass",
    }


def test_training_captions_are_published_only_for_drawn_scenes(params: Params, root: Path) -> None:
    report(params, root)
    for name in PUBLISHED:
        assert QUOTED.encode() not in (root / "reports/toys" / name).read_bytes(), name
    assert "retrieval.lite2" in (root / "reports/toys/comparison.md").read_text("utf-8")
    write_small_manifest(root, format="scenes")
    report(params, root)
    quoted = [row for row in csv_rows(root, "captions.csv") if row["caption"] == QUOTED]
    assert {row["configuration"] for row in quoted} == {"retrieval.lite2"}


def test_best_decodings_have_intervals(published: Path) -> None:
    for row in csv_rows(published):
        chosen = row["decoding"] in ("beam 3", "3 neighbours") and row["protocol"] == "strict"
        best = row["source"] == "measured" and chosen
        assert bool(row["cider_low"]) == best
        if best:
            assert float(row["bleu_4_low"]) <= float(row["bleu_4_high"])
            assert float(row["cider_low"]) <= float(row["cider_high"])
    markdown = (published / "reports/toys/comparison-all.md").read_text("utf-8")
    for title in ("Confidence intervals", "Significance of differences", "Language bias", "Caption statistics"):
        assert f"## {title}" in markdown
    assert "Attribute accuracy" not in markdown  # only for drawn scenes


def test_agreement_with_people_is_shown_if_the_dataset_has_judgments(params: Params, root: Path) -> None:
    title = "How far the scores agree with people"
    report(params, root)
    folder = root / "reports/toys"
    assert title not in (folder / "comparison-all.md").read_text("utf-8")
    write_results(root, params, judged=True)
    report(params, root)
    for name in ("comparison-all.md", "comparison.html"):
        assert title in (folder / name).read_text("utf-8")
    lines = (folder / "comparison-all.md").read_text("utf-8").splitlines()
    assert "| ROUGE-L | 0.500 | 0.450 to 0.550 | 0.500 | 0.450 to 0.550 |" in lines
    assert "| METEOR | n/a (needs Java) | – | n/a (needs Java) | – |" in lines  # noqa: RUF001
    missing = "n/a (needs evaluate.spice)"  # a score that was not asked for
    assert f"| SPICE | {missing} | – | {missing} | – |" in lines  # noqa: RUF001


def test_further_scores_are_shown_where_they_were_asked_for(params: Params, root: Path) -> None:
    report(params, root)
    folder = root / "reports/toys"
    assert "CLIPScore" not in (folder / "comparison-all.md").read_text("utf-8")
    write_results(root, params, judged=True)
    report(params, root)
    assert "RefCLIPScore" in (folder / "comparison.html").read_text("utf-8")
    lines = (folder / "comparison-all.md").read_text("utf-8").splitlines()
    row = "| attention.lite2 | beam 3 | 0.750 | 0.000 | n/a (needs Java 8 and Stanford CoreNLP) |"
    assert row in [line.replace("*", "") for line in lines]


def test_scores_above_people_are_marked_in_every_table_and_format(params: Params, root: Path) -> None:
    report(params, root)
    folder = root / "reports/toys"
    for name in TEXTS:
        assert ABOVE_PEOPLE not in (folder / name).read_text("utf-8")
    write_results(root, params, judged=True)
    report(params, root)
    scores = read_evaluation(root)
    expected = {
        each.key for each in scores.configurations if each.best.test["strict"].bleu_4 > 0.18
    }  # equal to the score of people with equally many references
    assert expected == {"modified.lite2", "attention.lite2"}
    rows = csv_rows(root)
    marked = [row for row in rows if "bleu_4" in row["above_people"].split()]
    assert {f"{row['system']}.{row['configuration']}" for row in marked if row["decoding"] == "beam 3"} == expected
    above = {
        (each.key, decoded.decoding.label, protocol)
        for each in scores.configurations
        for decoded in each.decodings
        for protocol in ("strict", "fewer_references")
        if decoded.test["strict"].bleu_4 > 0.18
    }
    assert {(f"{row['system']}.{row['configuration']}", row["decoding"], row["protocol"]) for row in marked} == above
    assert {decoding for _, decoding, _ in above} > {"beam 3"}
    (people,) = [row for row in rows if row["system"] == "people"]
    assert (people["protocol"], people["bleu_4"], people["above_people"]) == ("fewer_references", "0.180000", "")
    best = f"{scores['attention.lite2'].best.test['strict'].bleu_4:.3f}"
    for name in ("comparison.md", "comparison-all.md"):
        lines = (folder / name).read_text("utf-8").splitlines()
        (line, *_) = [line for line in lines if line.startswith("| attention.lite2 | beam 3 |")]
        assert f" {best} {ABOVE_PEOPLE} |" in line or f"**{best} {ABOVE_PEOPLE}**" in line
        assert not any(ABOVE_PEOPLE in line for line in lines if line.startswith("| baseline.lite0 |"))
    page = (folder / "comparison.html").read_text("utf-8")
    assert f">{best} {ABOVE_PEOPLE}</td>" in page
    bias = (folder / "comparison-all.md").read_text("utf-8").partition("## Language bias")[2].partition("\n## ")[0]
    with_mark = {line.split("|")[1].strip() for line in bias.splitlines() if line[:2] == "| " and ABOVE_PEOPLE in line}
    assert with_mark == expected
    assert "People&#39;s captions against the others of their photo" in page
    for title in ("Confidence intervals", "People's captions against the others of their photo"):
        text = (folder / "comparison-all.md").read_text("utf-8").partition(f"## {title}")[2].partition("\n## ")[0]
        marked_rows = {line.split("|")[1].strip() for line in text.splitlines() if f" {ABOVE_PEOPLE}" in line}
        assert {name for name in marked_rows if name} == expected, title
        assert "see the table of people's captions" in text


def test_further_scores_above_people_are_marked(params: Params, root: Path) -> None:
    write_results(root, params, judged=True)
    found = read_further_scores(root)
    people = {"clip_score": 0.7, "ref_clip_score": 0.8, "spice": None}
    own = {"clip_score": 0.75, "ref_clip_score": 0.8, "spice": None}  # equal is not above
    fewer = {**dict.fromkeys(found.configurations, people), "attention.lite2": own}
    write_further_scores(root / EVALUATION, dataclasses.replace(found, people=people, fewer_references=fewer))
    report(params, root)
    text = (root / "reports/toys/comparison-all.md").read_text("utf-8")
    table = text.partition("## CLIPScore and SPICE")[2].partition("\n## ")[0]
    rows = [line.replace("*", "") for line in table.splitlines() if line.startswith("| ")][2:]
    assert rows[0] == "| people | – | 0.700 | 0.800 | n/a (needs Java 8 and Stanford CoreNLP) |"  # noqa: RUF001
    marked = {line.split("|")[1].strip(): line.count(ABOVE_PEOPLE) for line in rows}
    assert {name: count for name, count in marked.items() if count} == {"attention.lite2": 1}
    assert f"0.750 {ABOVE_PEOPLE}" in table


def test_meteor_is_compared_with_that_of_people(params: Params, root: Path) -> None:
    """Where there is Java; otherwise the column says what it needs."""
    title = "## People's captions against the others of their photo"

    def table() -> list[str]:
        report(params, root)
        text = (root / "reports/toys/comparison-all.md").read_text("utf-8")
        return text.partition(title)[2].partition("\n## ")[0].splitlines()

    write_results(root, params, judged=True)
    assert [line for line in table() if line.startswith("| people |") and "n/a (needs Java)" in line]
    scores = read_evaluation(root)
    assert scores.fewer_references

    def with_meteor(decoded: DecodedScores) -> DecodedScores:
        strict = dataclasses.replace(decoded.test["strict"], meteor=0.25)
        return dataclasses.replace(decoded, test={**decoded.test, "strict": strict})

    configurations = tuple(
        dataclasses.replace(each, decodings=tuple(map(with_meteor, each.decodings))) for each in scores.configurations
    )
    fewer = {  # of one configuration above people's
        key: tuple(dataclasses.replace(own, meteor=0.21 if key == "attention.lite2" else 0.2) for own in decoded)
        for key, decoded in scores.fewer_references.configurations.items()
    }
    people = dataclasses.replace(scores.fewer_references.people, meteor=0.2)
    compared = dataclasses.replace(scores.fewer_references, people=people, configurations=fewer)
    write_evaluation(
        root / EVALUATION, dataclasses.replace(scores, configurations=configurations, fewer_references=compared)
    )
    (row,) = [line for line in table() if line.startswith("| people |")]
    assert row.endswith(" 0.200 |")
    rows = csv_rows(root)
    marked = {f"{row['system']}.{row['configuration']}" for row in rows if "meteor" in row["above_people"].split()}
    assert marked == {"attention.lite2"}
    lines = (root / "reports/toys/comparison.md").read_text("utf-8").splitlines()
    assert {line.split("|")[1].strip() for line in lines if f"0.250 {ABOVE_PEOPLE}" in line} == {"attention.lite2"}


def test_a_guest_is_a_marked_row(params: Params, root: Path) -> None:
    params = dataclasses.replace(params, guests={"friend": GuestParams(captions="friend.json")})
    write_results(root, params, judged=True)
    (closing, _) = report(params, root)
    assert "best on validation: attention.lite2" in closing  # the guest has no captions of that split
    folder = root / "reports/toys"
    (row,) = [row for row in csv_rows(root) if row["system"] == "guests" and row["protocol"] == "strict"]
    assert (row["configuration"], row["decoding"], row["bleu_4"], row["val_cider"], row["parameters"]) == (
        "friend", "as given", "0.300000", "", ""
    )  # fmt: skip
    text = (folder / "comparison.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[-1].startswith("| guests.friend | as given | – |")  # noqa: RUF001
    assert f" 0.300 {ABOVE_PEOPLE} |" in rows[-1].replace("*", "")
    assert "bleu_4" in row["above_people"].split()
    assert "Rows named guests are other captioners" in text
    assert "guests.friend" in (folder / "comparison.html").read_text("utf-8")
    assert "a dog runs" in (folder / "captions.csv").read_text("utf-8")
    assert "friend" in (folder / "gallery/index.html").read_text("utf-8")


def test_pages_need_no_network_and_no_other_file(published: Path) -> None:
    for name, links in (("comparison.html", {"gallery/index.html"}), ("gallery/index.html", {"../comparison.html"})):
        text = (published / "reports/toys" / name).read_text("utf-8")
        outside = {a for a in Page(text).addresses if not a.startswith(("data:", "#"))}
        assert outside == links
        assert not re.search(r"@import|url\((?!data:|#)|fetch\(|XMLHttpRequest", text)


def test_the_same_artifacts_give_the_same_bytes(params: Params, root: Path) -> None:
    report(params, root)
    paths = [root / "reports/toys" / name for name in (*PUBLISHED, "gallery/index.html")]
    first = [path.read_bytes() for path in paths]
    report(params, root)
    assert [path.read_bytes() for path in paths] == first


def test_a_removed_configuration_is_ignored(params: Params, root: Path) -> None:
    report(params, root)
    report(dataclasses.replace(params, modified={}), root)
    assert not [row for row in csv_rows(root) if row["system"] == "modified"]
    for name in (*TEXTS, "gallery/index.html"):
        assert "modified.lite2" not in (root / "reports/toys" / name).read_text("utf-8")


def test_a_configuration_without_scores_is_named(params: Params, root: Path) -> None:
    more = dataclasses.replace(params, baseline=params.baseline | {"new": params.baseline["lite0"]})
    with pytest.raises(CaptionlabError, match=r"baseline\.new has not been evaluated; run dvc repro"):
        report(more, root)


@pytest.mark.parametrize("broken", ["", "epoch,val_loss\n1,2.0\n", "epoch,train_loss\n1,high\n"])
def test_a_broken_history_is_named(params: Params, root: Path, broken: str) -> None:
    path = root / "artifacts/models/baseline/lite0/history.csv"
    path.write_text(broken)
    with pytest.raises(CaptionlabError, match=r"lite0.history\.csv"):
        report(params, root)


def set_params(root: Path, **params: dict[str, object]) -> None:
    """Set only this in the training parameters of these baselines."""
    for name, own in params.items():
        folder = root / MODELS / "baseline" / name
        training = read_training(folder)
        write_training(folder, dataclasses.replace(training, summary=dataclasses.replace(training.summary, params=own)))


def test_only_rows_of_others_are_marked_as_stated(params: Params, root: Path) -> None:
    """Not the seeds, people's captions and judgments, which the page's filter would hide among what was measured."""
    write_results(root, params, judged=True)
    set_params(root, lite0={"training.seed": 1}, lite2_wide={"training.seed": 2})
    report(params, root)
    page = (root / "reports/toys/comparison.html").read_text("utf-8")
    stated: dict[str, set[bool]] = {}
    for table in re.findall(r'aria-label="([^"]+)">\n<table>(.*?)</table>', page, re.DOTALL):
        rows = re.findall(r"<tr([^>]*)>\s*<th scope=\"row\"", table[1])
        stated[table[0]] = {"data-stated" in row for row in rows}
    assert {"Mean and deviation over seeds", "How far the scores agree with people"} <= stated.keys()
    others = [title for title, found in stated.items() if True in found]
    assert others
    assert all("report" in title or "ublished" in title for title in others)


def test_image_positions_have_a_separate_table(params: Params, root: Path) -> None:
    report(params, root)
    page = root / "reports/toys/comparison-all.md"
    assert "Where the image enters" not in page.read_text("utf-8")
    set_params(root, lite0={"image": "merge"}, lite2_wide={"image": "pre-inject"})
    report(params, root)
    table = page.read_text("utf-8").split("## Where the image enters")[1].split("\n## ")[0]
    shown = [[cell.strip() for cell in line.strip("|").split("|")][:2] for line in table.splitlines() if "|" in line]
    assert shown[2:] == [["baseline.lite2_wide", "pre-inject"], ["baseline.lite0", "merge"]]


def test_configurations_that_differ_in_their_seed_have_a_mean(params: Params, root: Path) -> None:
    report(params, root)
    page, short = root / "reports/toys/comparison-all.md", root / "reports/toys/comparison.md"
    assert "Mean and deviation over seeds" not in page.read_text("utf-8")
    assert "seeds" not in short.read_text("utf-8")
    set_params(root, lite0={"training.seed": 1}, lite2_wide={"training.seed": 2})
    report(params, root)
    table = page.read_text("utf-8").split("## Mean and deviation over seeds")[1].split("\n## ")[0]
    ((names, bleu_1, *_, cider, _),) = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "baseline" in line
    ]
    assert names == "baseline.lite0, baseline.lite2_wide"
    first, second = (
        float(row["bleu_1"])
        for row in csv_rows(root)
        if (row["configuration"] in ("lite0", "lite2_wide"))
        and (row["decoding"], row["protocol"]) == ("beam 3", "strict")
    )
    assert bleu_1 == f"{(first + second) / 2:.3f} ± {abs(first - second) / 2**0.5:.3f}"
    main = [[cell.strip() for cell in line.strip("|").split("|")] for line in short.read_text("utf-8").splitlines()]
    titles = next(row for row in main if row[0] == "Configuration")
    by_name = {row[0]: dict(zip(titles, row, strict=True)) for row in main if len(row) == len(titles)}
    assert "baseline.lite2_wide" not in by_name  # better, but not the first
    assert by_name["baseline.lite0"]["CIDEr, seeds"] == cider
    assert by_name["attention.lite2"]["CIDEr, seeds"] == "–"  # noqa: RUF001 (a dash is meant)


def test_means_over_seeds_above_people_are_marked(params: Params, root: Path) -> None:
    write_results(root, params, judged=True)
    set_params(root, lite0={"training.seed": 1}, lite2_wide={"training.seed": 2})
    scores = read_evaluation(root)
    assert scores.fewer_references
    people = dataclasses.replace(scores.fewer_references.people, bleu_4=0.0)  # the others are above the baselines'
    fewer = dataclasses.replace(scores.fewer_references, people=people)
    write_evaluation(root / EVALUATION, dataclasses.replace(scores, fewer_references=fewer))
    report(params, root)
    (folder,) = (root / "reports").iterdir()
    for name, line in (
        ("comparison-all.md", "| baseline.lite0, baseline.lite2_wide |"),
        ("comparison.md", "| baseline.lite0 |"),
    ):
        (found, *_) = [row for row in (folder / name).read_text("utf-8").splitlines() if row.startswith(line)]
        marked = [cell.strip() for cell in found.split("|") if "±" in cell and ABOVE_PEOPLE in cell]
        assert len(marked) == 1
        assert marked[0].startswith("0.1")


def test_names_are_text_and_not_markup(params: Params, root: Path) -> None:
    write_small_manifest(root, name="<i>toys</i> | _x_")
    report(params, root)
    page = (root / "reports/toys/comparison.html").read_text("utf-8")
    assert "&lt;i&gt;toys" in page
    assert "<i>" not in page
    assert r"# \<i\>toys\</i\> \| \_x\_" in comparison_markdown(results.load(params, root))


def test_names_and_captions_are_escaped(params: Params, root: Path) -> None:
    """Quotes, marks, line ends, and U+202E, which reverses what follows it."""
    hostile = '"><script>alert(1)</script>\u202egpj.exe\n| *x* |'
    photo = '"onload="x<b>\u202e.jpg'
    write_small_manifest(root, name=hostile)
    shown = read_gallery(root).photos[0].image
    (root / "artifacts/dataset/images" / shown).rename(root / "artifacts/dataset/images" / photo)
    for path in (root / EVALUATION).rglob("*.json*"):
        path.write_text(path.read_text("utf-8").replace(json.dumps(shown), json.dumps(photo)), "utf-8")
    for key in ("baseline.lite0", "baseline.lite2_wide", "modified.lite2", "attention.lite2"):
        rows = [
            dataclasses.replace(
                row,
                references=(hostile,),
                captions=row.captions | {"greedy": SaidCaption(caption=hostile, log_prob=-1.0)},
            )
            for row in read_photo_captions(root, key)
        ]
        write_photo_captions(root / EVALUATION, key, rows)
    report(params, root)
    for name in ("comparison.html", "gallery/index.html", "comparison.md", "comparison-all.md"):
        text = (root / "reports/toys" / name).read_text("utf-8")
        assert "\u202e" not in text
        assert "\ufffdgpj.exe\ufffd" in text
        assert "<b>" not in text
        assert "script>alert" not in text
        assert text.count("<script>") == name.endswith(".html")
        if name.endswith(".md"):
            assert text.splitlines()[0].startswith(r'# "\>\<script\>alert(1)\</script\>')
    parsed = Page((root / "reports/toys/gallery/index.html").read_text("utf-8"))
    assert [attributes["alt"] for attributes in parsed.images if attributes["alt"]] == [
        hostile.replace("\u202e", "\ufffd").replace("\n", "\ufffd")
    ] * params.report.gallery
    assert not any("onload" in attributes for attributes in parsed.images)
