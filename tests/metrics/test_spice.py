"""SPICE through its Java program. Its parser is not installed, so a program of the same interface replaces Java."""

import sys
from pathlib import Path

import pytest

from captionlab.errors import CaptionlabError
from captionlab.metrics import spice
from captionlab.metrics.spice import spice_scores

REFERENCES = {"a.jpg": ["a dog runs", "the dog"], "b.jpg": ["two cats"]}
PAIRS = [("a.jpg", "a dog"), ("b.jpg", "a dog"), ("a.jpg", "the dog runs")]
# The share of a caption's words that are in a reference, as the score; the rows in another order.
JAVA = f"""#!{sys.executable}
import json, sys
if sys.argv[1] == "-version":
    sys.exit('openjdk version "1.8.0_432"\\nOpenJDK Runtime Environment')
_, heap, _, jar, asked, _, out, _ = sys.argv
rows = []
for row in json.load(open(asked)):
    known = {{word for text in row["refs"] for word in text.split()}}
    words = row["test"].split()
    scores = {{"All": {{"f": sum(word in known for word in words) / len(words)}}}}
    rows.insert(0, {{"image_id": row["image_id"], "scores": scores}})
json.dump(rows, open(out, "w"))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with spice-1.0.jar and its parser; Java is the script above."""
    java = tmp_path / "bin/java"
    java.parent.mkdir()
    java.write_text(JAVA, encoding="utf-8")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent))
    (tmp_path / "lib").mkdir()
    for name in spice._PARSER:
        (tmp_path / "lib" / name).touch()
    monkeypatch.setattr(spice, "java_program", lambda path: tmp_path / Path(path).name)
    return tmp_path


def test_scores_are_in_the_order_of_the_captions(program: Path) -> None:
    assert spice_scores(PAIRS, REFERENCES).tolist() == [1.0, 0.0, 1.0]
    assert spice_scores([*PAIRS, ("b.jpg", "two dogs")], REFERENCES).tolist() == [1.0, 0.0, 1.0, 0.5]


def answering(program: Path, scores: str) -> None:
    """Make Java write these scores."""
    java = program / "bin/java"
    java.write_text(JAVA.replace('json.dump(rows, open(out, "w"))', f"open(out, 'w').write({scores!r})"), "utf-8")


def test_a_score_that_is_no_number_counts_as_0(program: Path) -> None:
    answering(
        program, '[{"image_id": 0, "scores": {"All": {"f": null}}}, {"image_id": 1, "scores": {"All": {"f": 1}}}]'
    )
    assert spice_scores(PAIRS[:2], REFERENCES).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("scores", ["", "{", "[]", "{}", "[null]", '[{"image_id": 0, "scores": {"All": {"f": "x"}}}]'])
def test_scores_that_cannot_be_read_are_one_line(program: Path, scores: str) -> None:
    answering(program, scores)
    with pytest.raises(CaptionlabError, match=r"^Java's scores cannot be read \(\w+: .*\)$"):
        spice_scores(PAIRS[:1], REFERENCES)


def test_a_missing_part_is_named(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program / "lib" / spice._PARSER[1]).unlink()
    with pytest.raises(CaptionlabError, match=r"stanford-corenlp-3\.6\.0-models\.jar is missing; to download it: "):
        spice_scores(PAIRS, REFERENCES)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CaptionlabError, match="it needs Java 8 and the extra"):
        spice_scores(PAIRS, REFERENCES)


def test_a_java_that_fails_is_one_line(program: Path) -> None:
    """The exception, and not what the program prints of its progress."""
    chatter = """if [ "$1" = -version ]; then echo 'java version "1.8.0_202"' >&2; exit; fi
printf 'Parsing reference captions\\nException in thread "main": no access\\n  at edu.anu.spice\\n' >&2; exit 1
"""
    (program / "bin/java").write_text(f"#!/bin/sh\n{chatter}")
    with pytest.raises(CaptionlabError, match=r'Java gave no score \(Exception in thread "main": no access\)$'):
        spice_scores(PAIRS, REFERENCES)


def test_a_newer_java_is_named(program: Path) -> None:
    (program / "bin/java").write_text("#!/bin/sh\necho 'openjdk version \"17.0.15\" 2025-04-15' >&2\n")
    with pytest.raises(CaptionlabError, match=r'SPICE 1.0 needs Java 8, and .*/java is openjdk version "17\.0\.15"'):
        spice_scores(PAIRS, REFERENCES)
