"""The reader of COCO's captions_*.json."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from captionlab.config import Params
from captionlab.datasets.coco import PUBLISHED, coco
from captionlab.datasets.splits import completed
from captionlab.errors import CaptionlabError
from photo_sets import checked, jpeg, kinds


def annotations(start: int, count: int) -> dict[str, Any]:
    """A file of images with two captions each; as in COCO, the captions of an image are not adjacent."""
    numbers = range(start, start + count)
    return {
        "info": {"year": 2017},
        "images": [{"id": n, "file_name": f"{n:012}.jpg", "height": 8, "width": 8, "license": 3} for n in numbers],
        "licenses": [],
        "annotations": [
            {"image_id": n, "id": 2 * n + i, "caption": f"Dog {n} {'ab'[i]}"} for i in range(2) for n in numbers
        ],
    }


def coco_folder(source: Path, **counts: int) -> Path:
    """Files with these numbers of images in COCO's layout: a folder of annotations, and one of photos per split."""
    (source / "annotations").mkdir(parents=True)
    for place, (name, count) in enumerate(counts.items()):
        value = annotations(100 * place, count)
        (source / f"annotations/captions_{name}.json").write_text(json.dumps(value))
        (source / name).mkdir()
        for image in value["images"]:
            (source / name / image["file_name"]).write_bytes(jpeg(image["id"]))
    return source


NO_COUNTS: dict[str, dict[str, int]] = {}  # none are published


def test_captions_and_splits_are_read(tmp_path: Path, images: Path) -> None:
    source = coco_folder(tmp_path / "coco", train2017=3, val2017=1, test=1)
    found = coco(source, images, NO_COUNTS)
    assert found.splits == {
        "train": ["000000000000.jpg", "000000000001.jpg", "000000000002.jpg"],
        "val": ["000000000100.jpg"],
        "test": ["000000000200.jpg"],
    }
    assert found.captions[:2] == [("000000000000.jpg", "Dog 0 a"), ("000000000000.jpg", "Dog 0 b")]
    assert found.split_source == "COCO's, from captions_train2017.json, captions_val2017.json, captions_test.json"
    assert len(checked(found, images, 0.0).records) == 5
    assert (images / "000000000200.jpg").read_bytes() == jpeg(200)


def test_without_a_test_file_its_photos_are_drawn_from_training(
    tmp_path: Path, images: Path, project_params: Params
) -> None:
    """COCO's test captions are not published; unlisted photos, such as its test photos, are left out."""
    source = coco_folder(tmp_path / "coco", train2017=20, val2017=2)
    (source / "test2017").mkdir()
    (source / "test2017/000000000581.jpg").write_bytes(jpeg(3))
    shares = dataclasses.replace(project_params.dataset, test_share=0.2, split_seed=5)
    found = completed(coco(source, images, NO_COUNTS), [path.name for path in images.iterdir()], shares)
    assert {split: len(photos) for split, photos in found.splits.items()} == {"train": 16, "val": 2, "test": 4}
    assert found.split_source == (
        "COCO's, from captions_train2017.json, captions_val2017.json; test drawn at random with seed 5"
    )
    assert found.notes == [
        "left out, since not named in captions_train2017.json, captions_val2017.json: 1 ('000000000581.jpg')",
        "the dataset has no test split: drawn at random from its training photos",
    ]
    assert len(checked(found, images, 0.0).records) == 22


def test_a_file_whose_split_is_not_clear_is_named(tmp_path: Path, images: Path) -> None:
    source = coco_folder(tmp_path / "coco", train2017=3, val2017=1)
    validation = source / "annotations/captions_val2017.json"
    validation.rename(validation.with_name("captions_val_mine.json"))
    unclear = r"captions_val_mine.json, whose split is not clear; the names are captions_train.json, "
    assert any(re.search(rf"not read: {unclear}", note) for note in coco(source, images, NO_COUNTS).notes)
    (source / "annotations/captions_train2017.json").unlink()
    with pytest.raises(CaptionlabError, match=rf"coco has {unclear}"):
        coco(source, images, NO_COUNTS)


def test_a_photo_in_two_splits_is_refused(tmp_path: Path, images: Path) -> None:
    source = coco_folder(tmp_path / "coco", train2017=3, val2017=1)
    value = annotations(2, 1)
    (source / "annotations/captions_test2017.json").write_text(json.dumps(value))
    with pytest.raises(CaptionlabError, match=r"train and test share 1 photo \(000000000002.jpg\)"):
        checked(coco(source, images, NO_COUNTS), images)


def test_a_file_name_of_two_images_is_refused(tmp_path: Path, images: Path) -> None:
    source = coco_folder(tmp_path / "coco", train2017=3, val2017=1, test2017=1)
    path = source / "annotations/captions_train2017.json"
    value = json.loads(path.read_text())
    value["images"][1]["file_name"] = value["images"][0]["file_name"]
    path.write_text(json.dumps(value))
    with pytest.raises(CaptionlabError, match=r"1 photos are listed more than once \(000000000000\.jpg\)"):
        coco(source, images, NO_COUNTS)


def test_a_photo_that_is_not_in_the_folder_is_named(tmp_path: Path, images: Path) -> None:
    source = coco_folder(tmp_path / "coco", train2017=3, val2017=1, test2017=1)
    (missing,) = source.rglob("000000000002.jpg")
    missing.unlink()
    found = coco(source, images, NO_COUNTS)
    assert [note for note in found.notes if note.endswith("1 ('000000000002.jpg')") and "not in the folder" in note]
    assert not (images / "000000000002.jpg").exists()


def test_a_file_name_in_two_folders_is_named(tmp_path: Path, images: Path) -> None:
    source = coco_folder(tmp_path / "coco", train2017=3, val2017=1, test2017=1)
    (photo,) = source.rglob("000000000002.jpg")
    (source / "copies").mkdir()
    (source / "copies/000000000002.jpg").write_bytes(photo.read_bytes())
    (note,) = (note for note in coco(source, images, NO_COUNTS).notes if "several photos" in note)
    assert note == "1 names could mean several photos (000000000002.jpg); write their folders and suffixes"
    for path in source.rglob("*.jpg"):
        (source / "copies" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CaptionlabError, match=r"has none of the 5 photos .*; 5 names could mean several photos \("):
        coco(source, images, NO_COUNTS)


def test_an_image_without_captions_is_a_problem(tmp_path: Path, images: Path) -> None:
    source = coco_folder(tmp_path / "coco", train2017=3, val2017=1, test2017=1)
    path = source / "annotations/captions_train2017.json"
    value = json.loads(path.read_text())
    value["annotations"] = [row for row in value["annotations"] if row["image_id"] != 1]
    path.write_text(json.dumps(value))
    assert kinds(checked(coco(source, images, NO_COUNTS), images).problems) == [
        ("photo without captions", "000000000001.jpg")
    ]


def test_the_counts_of_the_published_files_are_checked(tmp_path: Path, images: Path) -> None:
    for year in (2014, 2017):  # the same photos and captions in other splits
        own = [PUBLISHED[f"captions_{split}{year}.json"] for split in ("train", "val")]
        assert {key: sum(counts[key] for counts in own) for key in own[0]} == {"photos": 123_287, "captions": 616_767}
    source = coco_folder(tmp_path / "coco", train2017=3, val2017=1)
    with pytest.raises(
        CaptionlabError,
        match=r"captions_train2017.json is not what was published: 3 photos, 6 captions instead of 118,287 photos,"
        r" 591,753 captions; get it again, or rename",
    ):
        coco(source, images)


def test_each_split_has_one_file(tmp_path: Path, images: Path) -> None:
    with pytest.raises(
        CaptionlabError, match=r"has no captions_train\*.json, captions_val\*.json or .* put them there"
    ):
        coco(tmp_path, images)
    source = coco_folder(tmp_path / "coco", train2014=1, train2017=1)
    with pytest.raises(CaptionlabError, match=r"several files of the train split: .*train2014\.json.*train2017\.json"):
        coco(source, images)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"annotations": []}, "has no list of annotations"),
        ({"annotations": [{"image_id": 1}]}, "annotation 0 has no image_id or no caption"),
        ({"annotations": [{"image_id": 7, "caption": "A dog"}]}, "no image has the id '7' of an annotation"),
        ({"annotations": [{"image_id": 1, "caption": None}]}, "has a caption that is not text"),
        ({"annotations": [{"image_id": 1, "caption": "\udfff"}]}, "has a caption that is not text"),
        ({"images": [{"id": 1, "file_name": "1.jpg"}] * 2}, "'1' occurs more than once"),
        ({"images": [{"id": 1}]}, "the image '1' has no file_name"),
        ({"images": "none"}, "has no list of images"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, images: Path, changed: dict[str, Any], fault: str) -> None:
    value = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "caption": "A dog"}],
    }
    (tmp_path / "captions_train.json").write_text(json.dumps(value | changed))
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    with pytest.raises(CaptionlabError, match=fault) as caught:
        coco(tmp_path, images)
    assert "\n" not in str(caught.value)
