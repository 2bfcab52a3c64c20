"""From source data to vocabulary: the three stages on photos drawn here, run for real."""

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from captionlab.config import Params, load_params
from captionlab.core.files import read_json, read_jsonl
from captionlab.data.vocab import Vocabulary
from captionlab.errors import CaptionlabError
from captionlab.stages.build_vocab import build_vocab
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
    """A project whose dataset is twenty photos in a folder, one of them corrupt, one captions row too many."""
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
    assert manifest["captions"] == sum(len(record["captions"]) for record in records) == 39
    assert sum(manifest["splits"].values()) == 19
    assert [(problem["kind"], problem["item"]) for problem in manifest["problems"]] == [
        ("caption without photo", "no.png"),
        ("corrupt photo", "07.png"),
    ]
    assert {path.name for path in (dataset / "images").iterdir()} == {record["image"] for record in records}
    order = [(("train", "val", "test").index(record["split"]), record["image"]) for record in records]
    assert order == sorted(order)
    assert said[0].startswith("download: 19 photos (")
    assert said[1] == (
        "download: caption without photo: 1 (no.png); corrupt photo: 1 (07.png); all in artifacts/dataset/manifest.json"
    )

    captions = read_jsonl(root / "artifacts/captions/captions.jsonl")
    assert read_json(root / "artifacts/captions/summary.json") == {
        "captions": 39,
        "changed": 39,
        "dropped": 1,
        "longest": 4,
    }
    empty = [caption for caption in captions if not caption["words"]]
    assert [(caption["image"], caption["raw"]) for caption in empty] == [("08.png", "...")]
    assert said[2].startswith("clean_captions: 39 captions cleaned (standard): 39 changed, 1 dropped")

    value = read_json(root / "artifacts/vocab/vocab.json")
    vocabulary = Vocabulary.from_json(value, "vocab.json")
    train = [caption["words"] for caption in captions if caption["split"] == "train"]
    assert vocabulary == Vocabulary.build(train, cleaning="standard", min_count=params.build_vocab.min_count)
    assert vocabulary.words[4] == "dog"
    coverage = read_json(root / "artifacts/vocab/coverage.json")
    assert coverage["size"] == len(vocabulary)
    assert 0.8 < coverage["train"] < 1
    assert said[3].startswith(f"build_vocab: {len(vocabulary) - 4} words")


def test_the_same_input_gives_the_same_bytes_anywhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    params = with_dataset()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "data").symlink_to(root / "data")
    for place in (root, elsewhere):
        for stage in (download, clean_captions, build_vocab):
            stage(params, place)
    assert contents(root / "artifacts") == contents(elsewhere / "artifacts")


def test_words_of_validation_and_test_are_not_learned(root: Path) -> None:
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
        ({"format": "parquet"}, "parquet for the train split"),
        ({"format": "auto"}, "is not a format"),
    ],
)
def test_a_wrong_source_is_refused_and_nothing_written(root: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(CaptionlabError, match=fault):
        download(with_dataset(**changes), root)
    assert contents(root / "artifacts") == {}


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


def test_a_stage_before_its_input_says_what_to_run(tmp_path: Path) -> None:
    for stage in (clean_captions, build_vocab):
        with pytest.raises(CaptionlabError, match="dvc repro"):
            stage(with_dataset(), tmp_path)
