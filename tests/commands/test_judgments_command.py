"""captionlab judgments on generated Flickr8k texts, with output as text, JSON and CSV."""

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from photo_sets import jpeg
from tiny_transformers import clip

if TYPE_CHECKING:
    from conftest import Run

THINGS = ("A dog runs on grass", "Two dogs run", "A cat sleeps on grass", "The cat runs", "A man on a bike", "Two men")
TOKENS = "".join(f"{n // 2}.jpg#{n % 2}\t{caption} .\n" for n, caption in enumerate(THINGS))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pairs = [(f"{n}.jpg", f"{m}.jpg#1") for n in range(3) for m in range(3)]
    texts = {
        "Flickr8k.token.txt": TOKENS,
        "Flickr_8k.trainImages.txt": "0.jpg\n",
        "Flickr_8k.devImages.txt": "1.jpg\n",
        "Flickr_8k.testImages.txt": "2.jpg\n",
        "ExpertAnnotations.txt": "".join(f"{a}\t{b}\t{1 + i % 2}\t2\t3\n" for i, (a, b) in enumerate(pairs)),
        "CrowdFlowerAnnotations.txt": "".join(f"{a}\t{b}\t0\t{i % 4}\t3\n" for i, (a, b) in enumerate(pairs)) + "?\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_text_json_and_csv_have_the_same_figures(
    source: Path, tmp_path: Path, run: "Run", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))  # without Java
    code, out, err = run("judgments", "--source", str(source), "--json")
    assert code == 0
    assert "without clip_score, ref_clip_score: openai/clip-vit-base-patch32 is neither" in err
    assert "CrowdFlowerAnnotations.txt: broken judgments, 1 lines are left out" in err
    found = json.loads(out)
    assert (found["experts"]["pairs"], found["crowd"]["pairs"]) == (6, 9)
    rows = list(csv.DictReader(io.StringIO(run("judgments", "--source", str(source), "--csv")[1])))
    assert len(rows) == 2 * 11
    for row in rows:
        tau = found[row["judges"]]["scores"][row["score"]]
        assert (row["tau"], row["low"], row["high"]) == (("", "", "") if tau is None else tuple(map(str, tau.values())))
    lines = run("judgments", "--source", str(source))[1].splitlines()
    assert lines[0].startswith("experts: tau-c of 6 pairs, 3 photos")
    assert f"  rouge_l        {100 * found['experts']['scores']['rouge_l']['tau']:.1f}" in lines[5]
    assert lines[7] == "  meteor         n/a (needs Java and the extra captionlab[meteor])"
    assert lines[8] == "  photo_fit      n/a (needs the features of a pipeline: see its report)"
    assert lines[9] == "  clip_score     n/a (needs CLIP's weights and the photos)"
    assert lines[11] == "  spice          n/a (needs Java 8 and Stanford CoreNLP)"
    assert "without spice: it needs Java" in err


def test_clip_scores_are_rows_too(source: Path, tmp_path: Path, run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))  # without Java
    clip(tmp_path / "clip")
    asked = ["judgments", "--source", str(source), "--json", "--clip", str(tmp_path / "clip")]
    code, _, err = run(*asked)
    assert code == 1
    assert "has no Flickr8k_Dataset.zip" in err
    (source / "Flickr8k_Dataset").mkdir()
    for number in range(3):
        (source / f"Flickr8k_Dataset/{number}.jpg").write_bytes(jpeg(number))
    found = json.loads(run(*asked)[1])
    for judges in ("experts", "crowd"):
        assert -1 <= found[judges]["scores"]["clip_score"]["tau"] <= 1
        assert -1 <= found[judges]["scores"]["ref_clip_score"]["tau"] <= 1


def test_texts_without_judgments_and_no_texts_are_one_line(source: Path, run: "Run") -> None:
    for name in ("ExpertAnnotations.txt", "CrowdFlowerAnnotations.txt"):
        (source / name).unlink()
    code, _, err = run("judgments", "--source", str(source))
    assert (code, err.splitlines()[-1].endswith("get Flickr8k's texts again")) == (1, True)
    (source / "Flickr8k.token.txt").unlink()
    code, _, err = run("judgments", "--source", str(source))
    assert code == 1
    assert "has neither Flickr8k_text.zip nor Flickr8k.token.txt" in err
