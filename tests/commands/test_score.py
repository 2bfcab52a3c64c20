"""captionlab score: input formats, and output as text and JSON."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from captionlab.commands.score import score_files
from captionlab.errors import CaptionlabError
from captionlab.metrics.scorer import Scorer
from tracked import REPOSITORY, runs

if TYPE_CHECKING:
    from conftest import Run

REFERENCES = {"a.jpg": ["A dog runs on the grass", "the dog runs"], "b.jpg": ["a red kite", "a kite in the sky"]}
CAPTIONS = {"a.jpg": "a dog runs on the grass", "b.jpg": "a kite"}
EXPECTED = Scorer(REFERENCES).score(CAPTIONS)


def test_scores_can_be_logged_as_a_run_in_mlflow(pipeline: Path, run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    """In the project's experiment; equal scores are one run, other scores under the same name another."""
    shutil.copy(REPOSITORY / "params.yaml", pipeline)
    monkeypatch.chdir(pipeline)
    references, captions = write(pipeline, refs=REFERENCES, caps=CAPTIONS)
    asked = [
        "score",
        "--references",
        str(references),
        "--hypotheses",
        str(captions),
        "--no-meteor",
        "--mlflow-run",
        "blip",
    ]
    code, out, err = run(*asked, "--json")
    assert (code, json.loads(out)["bleu_1"]) == (0, EXPECTED.bleu_1)
    assert "the run blip is in MLflow's experiment captionlab/" in err
    assert "the run blip is already in MLflow's experiment" in run(*asked)[2]
    (made,) = runs(pipeline)["blip"]
    assert made.data.metrics["bleu_4"] == round(EXPECTED.bleu_4, 4)
    assert made.data.params == {"references": "refs", "captions": "caps"}
    captions.write_text(json.dumps(CAPTIONS | {"b.jpg": "a red kite"}))
    run(*asked)
    (changed,) = [name for name in runs(pipeline) if name.startswith("blip key=")]
    assert len(runs(pipeline)[changed]) == len(runs(pipeline)["blip"]) == 1


def test_without_a_project_there_is_no_experiment(tmp_path: Path, run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    references, captions = write(tmp_path, refs=REFERENCES, caps=CAPTIONS)
    files = ["--references", str(references), "--hypotheses", str(captions)]
    code, _, err = run("score", *files, "--no-meteor", "--mlflow-run", "blip")
    assert code == 1
    assert "params.yaml does not exist; run captionlab from the project's folder" in err


def write(folder: Path, **files: Any) -> list[Path]:
    for name, value in files.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return [folder / name for name in files]


def test_every_format_gives_the_same_scores(tmp_path: Path) -> None:
    """Ids are file names or numbers, whichever both files have."""
    images = [{"id": place, "file_name": name} for place, name in enumerate(REFERENCES)]
    annotations = [
        {"image_id": place, "caption": text} for place, own in enumerate(REFERENCES.values()) for text in own
    ]
    karpathy = [
        {"filename": name, "cocoid": place, "split": "test", "sentences": [{"raw": text} for text in own]}
        for place, (name, own) in enumerate(REFERENCES.items())
    ]
    rows = [{"image": name, "split": "test", "captions": own} for name, own in REFERENCES.items()]
    rows.append({"image": "c.jpg", "split": "val", "captions": ["a cat"]})
    references = write(
        tmp_path,
        lines_of_a_dataset="\n".join(map(json.dumps, rows)),
        token="\r\n".join(f"{name}#{n}\t{text}" for name, own in REFERENCES.items() for n, text in enumerate(own)),
        plain=REFERENCES,
        coco={"images": images, "annotations": annotations},
        karpathy={"images": karpathy},
    )
    lines = [json.dumps({"image": f"photos/{name}", "caption": caption}) for name, caption in CAPTIONS.items()]
    results = [{"image_id": place, "caption": caption} for place, caption in enumerate(CAPTIONS.values())]
    captions = write(
        tmp_path, one=CAPTIONS, list={name: [caption] for name, caption in CAPTIONS.items()},
        lines="\n".join(lines), results=results, results_lines="\n".join(map(json.dumps, results)),
    )  # fmt: skip
    for known in references:
        for generated in captions:
            if known.name in ("coco", "karpathy") or not generated.name.startswith("results"):  # file names and numbers
                assert score_files(known, generated, meteor=False).scores == EXPECTED, (known.name, generated.name)
    with pytest.raises(CaptionlabError, match=r"2 without a hypothesis \(a.jpg, b.jpg\) and 2 without references"):
        score_files(tmp_path / "plain", tmp_path / "results", meteor=False)


@pytest.mark.parametrize("known_as", ["plain", "token"])
def test_numbers_of_results_are_the_names_of_photos_without_suffix(tmp_path: Path, known_as: str) -> None:
    """As Flickr30k's photos are named."""
    numbers = dict(zip(REFERENCES, (1000092795, 10002456), strict=True))
    known = {f"{numbers[name]}.jpg": own for name, own in REFERENCES.items()}
    token = "\n".join(f"{name}#{n}\t{text}" for name, own in known.items() for n, text in enumerate(own))
    results = [{"image_id": numbers[name], "caption": caption} for name, caption in CAPTIONS.items()]
    write(tmp_path, plain=known, token=token, results=results)
    assert score_files(tmp_path / known_as, tmp_path / "results", meteor=False).scores == EXPECTED
    write(tmp_path, plain={f"{numbers[name]}.{kind}": ["x"] for name in REFERENCES for kind in ("jpg", "png")})
    with pytest.raises(CaptionlabError, match="2 without references"):
        score_files(tmp_path / "plain", tmp_path / "results", meteor=False)


def test_a_subset_has_the_scores_of_its_own_photos(tmp_path: Path, run: "Run") -> None:
    more = REFERENCES | {"c.jpg": ["a cat sleeps"]}
    known, generated = write(tmp_path, known=more, generated=CAPTIONS)
    assert score_files(known, generated, meteor=False, subset=True).scores == EXPECTED
    files = ("score", "--references", str(known), "--hypotheses", str(generated), "--no-meteor")
    code, _, err = run(*files)
    assert code == 1
    assert "1 without a hypothesis (c.jpg); --subset leaves these out" in err
    assert run(*files, "--subset")[:2] == run(*files[:2], str(write(tmp_path, same=REFERENCES)[0]), *files[3:])[:2]


def test_ids_must_match_and_the_nearest_pair_is_named(tmp_path: Path) -> None:
    rows = [json.dumps({"image": f"photos/{name}", "caption": "a dog"}) for name in ("a.jpg", "c.jpg")]
    known, generated = write(tmp_path, known=REFERENCES, generated="\n".join(rows))
    message = r"known and .*generated: .* 1 without a hypothesis \(b.jpg\) and 1 without references \(c.jpg\)"
    with pytest.raises(CaptionlabError, match=message):
        score_files(known, generated, meteor=False)


def test_photos_without_a_reference_with_a_word_are_named(tmp_path: Path) -> None:
    references = REFERENCES | {"c.jpg": ["!!!", "\U0001f600"]}
    paths = write(tmp_path, known=references, generated=CAPTIONS | {"c.jpg": "a"})
    with pytest.raises(CaptionlabError, match=r"1 photos have no reference with a word \(c\.jpg\)$"):
        score_files(*paths, meteor=False)


def test_cider_of_one_photo_is_not_available(tmp_path: Path, run: "Run") -> None:
    """It is 0 for any caption, because every word occurs in all photos."""
    known, generated = map(str, write(tmp_path, known={"a": ["a dog runs"]}, generated={"a": "a dog runs"}))
    files = ("score", "--references", known, "--hypotheses", generated, "--no-meteor")
    assert "cider    n/a (needs several photos)\n" in run(*files)[1]
    assert json.loads(run(*files, "--json")[1])["cider"] is None


def test_intervals_are_those_of_the_resampled_photos(tmp_path: Path, run: "Run") -> None:
    """Those of two photos of which each is drawn twice, once or never: from one photo's score to the other's."""
    known, generated = map(str, write(tmp_path, known=REFERENCES, generated=CAPTIONS))
    files = ("score", "--references", known, "--hypotheses", generated, "--no-meteor", "--intervals")
    found = json.loads(run(*files, "--json")[1])
    assert {key: value for key, value in found.items() if key != "intervals"} == dataclasses.asdict(EXPECTED)
    ciders = Scorer(REFERENCES).per_photo(CAPTIONS).cider_N
    assert found["intervals"]["cider"] == pytest.approx([ciders.min(), ciders.max()])
    assert "meteor" not in found["intervals"]
    low, high = found["intervals"]["bleu_1"]
    assert f"bleu_1   {EXPECTED.bleu_1:.4f}  {low:.4f} to {high:.4f}\n" in run(*files)[1]


def test_text_and_json(tmp_path: Path, run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no Java
    known, generated = map(str, write(tmp_path, known=REFERENCES, generated=CAPTIONS))
    files = ("score", "--references", known, "--hypotheses", generated)
    code, out, err = run(*files, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == dataclasses.asdict(EXPECTED)
    code, out, _ = run(*files)
    assert code == 0
    assert f"bleu_1   {EXPECTED.bleu_1:.4f}\n" in out
    assert "meteor   n/a (needs Java and the extra captionlab[meteor])\n" in out
    assert "meteor   n/a (left out)\n" in run(*files, "--no-meteor")[1]
    Path(generated).write_text("{")
    code, out, err = run(*files)
    assert (code, out) == (1, "")
    assert err.startswith(f"captionlab: {generated} is not valid JSON")
    Path(generated).write_text('{"file_name": "a.jpg", "text": "a dog"}\n{"file_name": "b.jpg", "text": "a kite"}\n')
    assert "has JSON lines of an unknown kind; known formats: " in run(*files)[2]


def test_unneeded_libraries_are_not_imported() -> None:
    script = (
        "import sys; import captionlab.commands.score\n"
        "heavy = {'torch', 'nltk', 'scipy', 'sklearn', 'pandas', 'mlflow', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
