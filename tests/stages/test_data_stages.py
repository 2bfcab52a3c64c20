"""The stages download, clean_captions and build_vocab on drawn photos."""

import dataclasses
import hashlib
import json
import re
import shutil
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from builders import digests
from captionlab.config import BuildVocabParams, CleanCaptionsParams, Params, load_params
from captionlab.core.files import read_json, read_jsonl, write_jsonl
from captionlab.core.results import read_manifest
from captionlab.data.vocab import Vocabulary
from captionlab.errors import CaptionlabError
from captionlab.metrics.scorer import Scorer
from captionlab.stages.build_vocab import build_vocab
from captionlab.stages.check_params import check_params
from captionlab.stages.clean_captions import clean_captions
from captionlab.stages.download import download


def with_dataset(**changes: Any) -> Params:
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    dataset: dict[str, Any] = {
        "name": "mine",
        "format": "folder",
        "source": "data/mine",
        "max_bad_share": 0.2,
    } | changes
    return dataclasses.replace(params, dataset=dataclasses.replace(params.dataset, **dataset))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a folder of twenty photos, one of them corrupt, and a caption without a photo."""
    photos = tmp_path / "data/mine/Images"
    photos.mkdir(parents=True)
    rows = ["image,caption"]
    for number in range(20):
        Image.new("RGB", (9, 7), (number * 12, 90, 200)).save(photos / f"{number:02d}.png")
        rows += [f'{number:02d}.png,"A dog , number {number} ."', f"{number:02d}.png,The dog runs !"]
    (photos / "07.png").write_bytes(b"not a photo")
    (tmp_path / "data/mine/captions.txt").write_text("\n".join([*rows, "08.png,...", "no.png,A ghost"]))
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_three_stages_make_a_vocabulary(root: Path) -> None:
    params = with_dataset()
    said = download(params, root) + clean_captions(params, root) + build_vocab(params, root)
    dataset = root / "artifacts/dataset"
    manifest = read_json(dataset / "manifest.json")
    records = read_jsonl(dataset / "dataset.jsonl")

    assert manifest["name"] == "mine"
    assert manifest["format"] == "folder"
    assert manifest["images"] == len(records) == 19
    assert manifest["captions"] == sum(len(record["captions"]) for record in records) == 38
    assert sum(manifest["splits"].values()) == 19
    assert [(problem["kind"], problem["item"]) for problem in manifest["problems"]] == [
        ("caption without photo", "no.png"),
        ("caption without words", "08.png"),
        ("corrupt photo", "07.png"),
    ]
    assert {path.name for path in (dataset / "images").iterdir()} == {record["image"] for record in records}
    order = [(("train", "val", "test").index(record["split"]), record["image"]) for record in records]
    assert order == sorted(order)
    assert said[0].startswith("download: 19 photos (")
    assert said[1] == "download: splits: drawn at random with seed 0"
    assert said[2] == (
        "download: caption without photo: 1 (no.png); caption without words: 1 (08.png); corrupt photo: 1 (07.png);"
        " all are in artifacts/dataset/manifest.json"
    )

    captions = read_jsonl(root / "artifacts/captions/captions.jsonl")
    assert read_json(root / "artifacts/captions/summary.json") == {
        "captions": 38,
        "changed": 38,
        "dropped": 0,
        "longest": 4,
    }
    assert all(caption["words"] for caption in captions)
    assert said[3].startswith("clean_captions: 38 captions cleaned (standard): 38 changed, 0 dropped")

    value = read_json(root / "artifacts/vocab/vocab.json")
    vocabulary = Vocabulary.from_json(value, "vocab.json")
    train = [caption["words"] for caption in captions if caption["split"] == "train"]
    assert vocabulary == Vocabulary.build(train, cleaning="standard", min_count=params.build_vocab.min_count)
    assert vocabulary.words[4] == "dog"
    coverage = read_json(root / "artifacts/vocab/coverage.json")
    assert coverage["size"] == len(vocabulary)
    assert 0.8 < coverage["train"] < 1
    assert said[4].startswith(f"build_vocab: {len(vocabulary) - 4} words")


_KARPATHY = [
    {"filename": f"{number:02d}.png", "split": split, "sentences": [{"raw": "A dog"}]}
    for number, split in enumerate(["train", "restval", "val", "test"])
]
_COCO = {
    "images": [{"id": number, "file_name": f"{number:02d}.png"} for number in range(7)],
    "annotations": [{"image_id": number, "caption": "A dog"} for number in range(7)],
}


@pytest.mark.parametrize(
    ("form", "name", "content", "splits", "split_source"),
    [
        ("karpathy", "dataset_mine.json", {"images": _KARPATHY}, [2, 1, 1], "Karpathy's, from dataset_mine.json"),
        (
            "coco", "captions_train.json", _COCO, [3, 2, 2],
            "COCO's, from captions_train.json; val and test drawn at random with seed 0",
        ),
        ("folder", "train.json", None, [15, 2, 2], "drawn at random with seed 0"),
    ],
)  # fmt: skip
def test_the_manifest_names_the_source_of_the_split(
    root: Path, form: str, name: str, content: Any, splits: list[int], split_source: str
) -> None:
    (root / "data/mine" / name).write_text(json.dumps(content))
    download(with_dataset(format=form), root)
    manifest = read_manifest(root)
    assert list(manifest.splits.values()) == splits
    assert manifest.split_source == split_source


def test_flickr30k_must_have_the_published_counts(root: Path) -> None:
    (root / "data/mine/results.csv").write_text("image_name| comment_number| comment\n00.png| 0| A dog\n")
    with pytest.raises(CaptionlabError, match="20 photos, 1 captions instead of 31,783 photos, 158,915 captions"):
        download(with_dataset(format="flickr30k"), root)


def test_the_same_input_gives_the_same_bytes_anywhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    params = with_dataset()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "data").symlink_to(root / "data")
    for place in (root, elsewhere):
        for stage in (download, clean_captions, build_vocab):
            stage(params, place)
    assert contents(root / "artifacts") == contents(elsewhere / "artifacts")


def test_words_of_validation_and_test_are_not_in_the_vocabulary(root: Path) -> None:
    params = dataclasses.replace(
        with_dataset(), build_vocab=dataclasses.replace(with_dataset().build_vocab, min_count=1)
    )
    for stage in (download, clean_captions, build_vocab):
        stage(params, root)
    words = set(read_json(root / "artifacts/vocab/vocab.json")["words"])
    numbers = {record["image"][:2]: record["split"] for record in read_jsonl(root / "artifacts/dataset/dataset.jsonl")}
    assert {number: str(int(number)) in words for number in numbers} == {
        number: split == "train" for number, split in numbers.items()
    }


def with_captions(root: Path, *captions: str) -> None:
    """The captions of the photos 00.png, 01.png, ..., in this order."""
    rows = [f'{number:02d}.png,"{caption}"' for number, caption in enumerate(captions)]
    (root / "data/mine/captions.txt").write_text("\n".join(["image,caption", *rows]), encoding="utf-8")


def test_both_unicode_forms_are_one_word_of_the_vocabulary(root: Path) -> None:
    forms = [unicodedata.normalize("NFC", "Un été ."), unicodedata.normalize("NFD", "Un été .")]
    with_captions(root, *forms * 3)
    params = with_dataset(max_bad_share=0.9)
    params = dataclasses.replace(params, build_vocab=BuildVocabParams(min_count=1))
    for stage in (download, clean_captions, build_vocab):
        stage(params, root)
    assert read_json(root / "artifacts/vocab/vocab.json")["words"][4:] == ["un", "été"]


def test_captions_without_words_after_cleaning_are_named(root: Path) -> None:
    """Report A's cleaning keeps only ASCII. A photo that is scored must have words, a training photo need not."""
    with_captions(root, *["A dog ."] * 4, "Собака", "Кошка")
    params = with_dataset(max_bad_share=0.9)
    download(params, root)
    assert len(clean_captions(params, root)) == 1
    params = dataclasses.replace(params, clean_captions=CleanCaptionsParams(cleaning="report_a"))
    named = "photos without words under the cleaning report_a: 2 (04.png, 05.png); change their captions, or choose"
    rows = read_jsonl(root / "artifacts/dataset/dataset.jsonl")
    for split in ("train", "val", "test"):
        wordless = [row | {"split": split} if row["image"] in ("04.png", "05.png") else row for row in rows]
        write_jsonl(root / "artifacts/dataset/dataset.jsonl", wordless)
        if split == "train":
            (warning,) = clean_captions(params, root)[1:]
            assert warning.startswith(f"clean_captions: train {named}")
        else:
            written = digests(root / "artifacts/captions")
            with pytest.raises(CaptionlabError, match=f"^val and test {re.escape(named)}"):
                clean_captions(params, root)
            assert digests(root / "artifacts/captions") == written


@pytest.mark.parametrize("phrases", ["สุนัขสีน้ำตาล วิ่งบนหญ้าสีเขียว", "一只狗, 在草地上跑"])
def test_phrases_as_words_give_a_warning(root: Path, phrases: str) -> None:
    with_captions(root, *[phrases] * 6)
    params = with_dataset(max_bad_share=0.9)
    download(params, root)
    _, warning = clean_captions(params, root)
    assert warning.startswith("clean_captions: 6 of 6 captions are one word or have whole phrases as words, such as ")
    by_characters = dataclasses.replace(params, clean_captions=CleanCaptionsParams(cleaning="characters"))
    assert len(clean_captions(by_characters, root)) == 1


def test_captions_of_one_word_give_a_warning(root: Path) -> None:
    with_captions(root, *["一只狗在跑"] * 6)
    params = with_dataset(max_bad_share=0.9)
    download(params, root)
    assert clean_captions(params, root)[1:] == [
        "clean_captions: 6 of 6 captions are one word or have whole phrases as words, such as '一只狗在跑'; for a"
        " language written without spaces set clean_captions.cleaning to characters"
    ]
    params = dataclasses.replace(params, clean_captions=CleanCaptionsParams(cleaning="characters"))
    assert len(clean_captions(params, root)) == 1
    captions = read_jsonl(root / "artifacts/captions/captions.jsonl")
    assert captions[0]["words"] == ["一", "只", "狗", "在", "跑"]
    scored = Scorer({caption["image"]: [caption["raw"]] for caption in captions}).score(
        {caption["image"]: " ".join(caption["words"]) for caption in captions}
    )
    assert scored.bleu_4 == pytest.approx(1)


def test_a_split_of_one_photo_gives_a_warning(root: Path) -> None:
    for split, photos in {"train": range(17), "val": [17, 18], "test": [19]}.items():
        (root / f"data/mine/{split}.txt").write_text("\n".join(f"{number:02d}.png" for number in photos))
    warning = "download: warning: only one photo for test, and CIDEr of one photo is always 0; add photos, or raise"
    assert download(with_dataset(), root)[-1] == f"{warning} dataset.test_share if drawn at random"


def test_notes_of_the_reader_are_printed_at_the_end(root: Path) -> None:
    (root / "data/mine/Images/raw.nef").write_bytes(b"raw")
    assert download(with_dataset(), root)[-1] == "download: skipped 1 file of formats that are not read (.nef: 1)"


def test_an_unreadable_photo_is_not_reported_as_a_full_disk(root: Path) -> None:
    (root / "data/mine/Images/z.png").symlink_to("/proc/self/mem")
    with pytest.raises(CaptionlabError, match=r"^cannot read .*data/mine/Images/z\.png: Input/output error$"):
        download(with_dataset(), root)


def test_a_failing_download_keeps_the_earlier_dataset(root: Path) -> None:
    download(with_dataset(), root)
    before = contents(root / "artifacts")
    with pytest.raises(CaptionlabError, match="max_bad_share"):
        download(with_dataset(max_bad_share=0.01), root)
    (root / "data/mine/captions.txt").write_text("")
    with pytest.raises(CaptionlabError, match=r"captions\.txt is empty"):
        download(with_dataset(), root)
    assert contents(root / "artifacts") == before


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"source": "nowhere"}, "nowhere is not a folder"),
        ({"format": "parquet"}, r"has no \*\.parquet files"),
        ({"format": "auto"}, "is not a format"),
    ],
)
def test_a_wrong_source_is_refused_without_output(root: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(CaptionlabError, match=fault):
        download(with_dataset(**changes), root)
    assert contents(root / "artifacts") == {}


@pytest.mark.parametrize("source", [".", ".."])
def test_a_source_that_holds_the_project_is_refused(root: Path, source: str) -> None:
    """DVC takes no folder with its own configuration as a dependency."""
    with pytest.raises(CaptionlabError, match=rf"^dataset\.source {re.escape(source)} holds this project"):
        check_params(with_dataset(source=source), root)


@pytest.mark.parametrize("wordless", range(6))
def test_a_photo_without_words_is_never_drawn_into_a_split(root: Path, wordless: int) -> None:
    """With few photos it would be the only one of its split."""
    shutil.rmtree(root / "data/mine")
    (root / "data/mine").mkdir()
    rows = ["image,caption"]
    for number in range(6):
        Image.new("RGB", (9, 7), (number * 40, 90, 200)).save(root / f"data/mine/{number}.png")
        rows.append(f"{number}.png,{'!!!' if number == wordless else 'A dog'}")
    (root / "data/mine/captions.csv").write_text("\n".join(rows))
    said = download(with_dataset(max_bad_share=0.3), root)
    assert said[0].startswith("download: 5 photos (3 train, 1 val, 1 test)")
    assert said[-1] == (
        "download: warning: only one photo for val and test, and CIDEr of one photo is always 0; add photos, or raise"
        " dataset.val_share and dataset.test_share if drawn at random"
    )
    assert f"{wordless}.png" in {problem["item"] for problem in read_manifest(root).problems}


def test_flickr8k_zips_that_are_damaged_or_unsafe_are_refused(root: Path) -> None:
    source = root / "data/mine"
    for name in ("Flickr8k_Dataset.zip", "Flickr8k_text.zip"):
        with zipfile.ZipFile(source / name, "w") as opened:
            opened.writestr("../outside.txt", name)
    with pytest.raises(CaptionlabError, match="points outside the folder"):
        download(with_dataset(format="flickr8k"), root)
    (source / "Flickr8k_text.zip").write_bytes((source / "Flickr8k_text.zip").read_bytes()[:40])
    with pytest.raises(CaptionlabError, match=r"Flickr8k_text.zip is truncated or damaged"):
        download(with_dataset(format="flickr8k"), root)
    assert not (root / "outside.txt").exists()
    assert contents(root / "artifacts") == {}


def test_a_stage_without_input_names_the_stage_to_run(tmp_path: Path) -> None:
    for stage in (clean_captions, build_vocab):
        with pytest.raises(CaptionlabError, match="dvc repro"):
            stage(with_dataset(), tmp_path)
