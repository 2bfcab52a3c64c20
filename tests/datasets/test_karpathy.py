"""The reader of Karpathy's dataset_*.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from captionlab.datasets.karpathy import PUBLISHED, karpathy
from captionlab.errors import CaptionlabError
from photo_sets import checked, jpeg, kinds

SPLITS = ["train", "train", "restval", "val", "test"]


def entry(number: int, split: str, **changed: Any) -> dict[str, Any]:
    """An image as in the files of Flickr8k and Flickr30k."""
    sentences = [{"tokens": ["dog"], "raw": f"Dog {number} .", "imgid": number, "sentid": number + i} for i in range(2)]
    image = {"sentids": [number], "imgid": number, "sentences": sentences, "split": split, "filename": f"{number}.jpg"}
    return image | changed


def karpathy_folder(source: Path, images: list[dict[str, Any]], file: str = "dataset_mine.json") -> Path:
    """The file, and its photos in Images."""
    (source / "Images").mkdir(parents=True)
    (source / file).write_text(json.dumps({"dataset": "mine", "images": images}))
    for number, image in enumerate(images):
        path = source / "Images" / image.get("filepath", "") / image["filename"]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(number))
    return source


def test_captions_splits_and_photos_are_read(tmp_path: Path, images: Path) -> None:
    found = karpathy(
        karpathy_folder(tmp_path / "k", [entry(number, split) for number, split in enumerate(SPLITS)]), images
    )
    assert found.captions == [(f"{number}.jpg", f"Dog {number} .") for number in range(5) for _ in range(2)]
    assert found.splits == {"train": ["0.jpg", "1.jpg", "2.jpg"], "val": ["3.jpg"], "test": ["4.jpg"]}
    assert found.split_source == "Karpathy's, from dataset_mine.json"
    assert (found.problems, found.notes) == ([], [])
    assert (images / "4.jpg").read_bytes() == jpeg(4)


def test_coco_photos_are_found_by_their_folders(tmp_path: Path, images: Path) -> None:
    """Two photos with the same name, and one without its folder."""
    entries = [
        entry(0, "train", filepath="train2014", filename="a.jpg", cocoid=1),
        entry(1, "val", filepath="val2014", filename="a.jpg", cocoid=2),
        entry(2, "test", filepath="val2014", filename="b.jpg", cocoid=3),
    ]
    source = karpathy_folder(tmp_path / "k", entries)
    (source / "Images/val2014/b.jpg").rename(source / "Images/b.jpg")
    found = karpathy(source, images)
    assert found.splits == {"train": ["train2014__a.jpg"], "val": ["val2014__a.jpg"], "test": ["b.jpg"]}
    assert (images / "val2014__a.jpg").read_bytes() == jpeg(1)


def test_one_photo_cannot_stand_for_two_of_equal_name(tmp_path: Path, images: Path) -> None:
    entries = [entry(0, "train", filename="cats/0.jpg"), entry(0, "train", filename="dogs/0.jpg"), entry(1, "train")]
    source = tmp_path / "k"
    (source / "Images").mkdir(parents=True)
    (source / "dataset_mine.json").write_text(json.dumps({"images": entries}))
    for name in ("0.jpg", "1.jpg"):
        (source / "Images" / name).write_bytes(jpeg(0))
    assert karpathy(source, images).splits["train"] == ["cats/0.jpg", "dogs/0.jpg", "1.jpg"]


def test_photos_that_the_file_does_not_name_are_left_out(tmp_path: Path, images: Path) -> None:
    """As 91 of Flickr8k's photos; they must not count as photos without captions."""
    source = karpathy_folder(tmp_path / "k", [entry(number, split) for number, split in enumerate(SPLITS)])
    for name in ("x.jpg", "y.jpg"):
        (source / "Images" / name).write_bytes(jpeg(9))
    found = karpathy(source, images)
    assert found.notes == ["left out, since not named in dataset_mine.json: 2 ('x.jpg')"]
    assert sorted(path.name for path in images.iterdir()) == [f"{number}.jpg" for number in range(5)]


def test_a_photo_that_is_listed_twice_is_refused(tmp_path: Path, images: Path) -> None:
    """Its captions would count twice. In two splits it is another error."""
    entries = [entry(number, split) for number, split in enumerate(SPLITS)]
    source = karpathy_folder(tmp_path / "k", [*entries, entry(1, "restval")])
    with pytest.raises(
        CaptionlabError,
        match=r"^dataset_mine\.json: 1 photos are listed more than once \(1\.jpg\); keep one entry of each$",
    ):
        karpathy(source, images)


def test_missing_photos_are_reported_with_examples(tmp_path: Path, images: Path) -> None:
    source = karpathy_folder(tmp_path / "k", [entry(number, split) for number, split in enumerate(SPLITS * 2)])
    (source / "Images/1.jpg").rename(source / "Images/one.jpg")
    found = karpathy(source, images)
    assert found.notes == [
        "not in the folder, though named in dataset_mine.json: 1 ('1.jpg')",
        "left out, since not named in dataset_mine.json: 1 ('one.jpg')",
    ]
    assert ("split names unknown photo", "1.jpg") in kinds(checked(found, images).problems)
    with pytest.raises(CaptionlabError, match=r"1\.jpg.*not in the folder.*'1\.jpg'.*not named in.*'one\.jpg'"):
        checked(found, images, 0.01)


def test_a_folder_of_other_photos_is_refused(tmp_path: Path, images: Path) -> None:
    source = karpathy_folder(tmp_path / "k", [entry(number, split) for number, split in enumerate(SPLITS)])
    for number in range(5):
        (source / f"Images/{number}.jpg").rename(source / f"Images/photo_{number}.jpg")
    with pytest.raises(
        CaptionlabError, match=r"none of the 5 photos named in dataset_mine.json, such as '0.jpg'; .*'photo_0.jpg'$"
    ):
        karpathy(source, images)


def test_a_photo_in_two_splits_is_refused(tmp_path: Path, images: Path) -> None:
    entries = [*(entry(number, split) for number, split in enumerate(SPLITS)), entry(9, "test", filename="0.jpg")]
    with pytest.raises(CaptionlabError, match=r"train and test share 1 photo \(0.jpg\)"):
        checked(karpathy(karpathy_folder(tmp_path / "k", entries), images), images)


def test_the_counts_of_the_published_files_are_checked(tmp_path: Path, images: Path) -> None:
    assert {name: sum(counts.values()) - counts["captions"] for name, counts in PUBLISHED.items()} == {
        "dataset_flickr8k.json": 8_000, "dataset_flickr30k.json": 31_014, "dataset_coco.json": 123_287,
    }  # fmt: skip
    entries = [entry(number, split) for number, split in enumerate(SPLITS)]
    source = karpathy_folder(tmp_path / "k", entries, "dataset_flickr8k.json")
    with pytest.raises(
        CaptionlabError,
        match=r"dataset_flickr8k.json is not what was published: 3 train, 1 val, 1 test, 10 captions instead of"
        r" 6,000 train, .*40,000 captions; get it again, or rename",
    ):
        karpathy(source, images)
    assert list(images.iterdir()) == []
    small = {"dataset_flickr8k.json": {"train": 3, "val": 1, "test": 1, "captions": 10}}
    assert len(karpathy(source, images, small).captions) == 10


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"split": "held out"}, "the split 'held out' of the photo .*7.jpg is unknown"),
        ({"split": 3}, "a filepath or a split that is not text"),
        ({"filepath": []}, "a filepath or a split that is not text"),
        ({"filename": None}, "no filename or no sentences"),
        ({"filename": ["a"]}, "no filename or no sentences"),
        ({"filename": "a" * 70_000}, "no photo can have the name"),
        ({"filename": "\ud800"}, "no photo can have the name"),
        ({"sentences": "A dog"}, "no filename or no sentences"),
        ({"sentences": [{"tokens": []}]}, "image '7.jpg' has a sentence without the key raw"),
        ({"sentences": [{"raw": 7}]}, "image '7.jpg' has a caption that is not text"),
        ({"sentences": [{"raw": "A \ud800 dog"}]}, "image '7.jpg' has a caption that is not text"),
    ],
)
def test_a_damaged_entry_is_refused_in_one_line(
    tmp_path: Path, images: Path, changed: dict[str, Any], fault: str
) -> None:
    source = karpathy_folder(tmp_path / "k", [entry(number, split) for number, split in enumerate(SPLITS)])
    (source / "dataset_mine.json").write_text(json.dumps({"images": [entry(7, "train") | changed]}))
    with pytest.raises(CaptionlabError, match=fault) as caught:
        karpathy(source, images)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"{", "is not valid JSON"),
        (b"[" * 100_000, "is not valid JSON"),
        (b"\xff", "is not UTF-8 text"),
        (b'{"images": [], "dataset": "coco"}', "has no list of images"),
        (b'{"images": [{"split": "train", "split": "val"}]}', "'split' occurs more than once"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, images: Path, content: bytes, fault: str) -> None:
    (tmp_path / "dataset_mine.json").write_bytes(content)
    with pytest.raises(CaptionlabError, match=fault):
        karpathy(tmp_path, images)


def test_exactly_one_file_is_required(tmp_path: Path, images: Path) -> None:
    with pytest.raises(CaptionlabError, match=r"one dataset_\*.json \(such as dataset_flickr8k.json.*but has none"):
        karpathy(tmp_path, images)
    for name in ("dataset_b.json", "dataset_a.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CaptionlabError, match=r"but has several: dataset_a\.json, dataset_b\.json; keep one"):
        karpathy(tmp_path, images)
