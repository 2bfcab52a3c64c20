"""The reader of Flickr30k's results.csv and photos."""

from pathlib import Path

import pytest

from captionlab.datasets.flickr30k import flickr30k
from captionlab.errors import CaptionlabError
from photo_sets import jpeg

COUNTS = {"photos": 3, "captions": 6}
# As published: blanks after the separators, and one row without the second separator.
RESULTS = (
    "image_name| comment_number| comment\n"
    "1.jpg| 0| Two young guys with shaggy hair look at their hands .\n"
    "1.jpg| 1| Two young , White males are outside | near many bushes .\n"
    "2199200615.jpg| 3| A dog runs .\n"
    "2199200615.jpg| 4   A dog runs across the grass .\n"
    '2.jpg| 0| A man in a "red" shirt .\n'
    '2.jpg| 1| A man in a "red" shirt .\n'
)


def flickr30k_folder(source: Path, photos: str = "flickr30k_images", captions: str = RESULTS) -> Path:
    (source / photos).mkdir(parents=True)
    for number, name in enumerate(("1.jpg", "2199200615.jpg", "2.jpg")):
        (source / photos / name).write_bytes(jpeg(number))
    (source / "results.csv").write_text(captions)
    return source


@pytest.mark.parametrize("photos", ["flickr30k_images", "flickr30k-images", "Images", "."])
def test_captions_and_photos_are_read(tmp_path: Path, images: Path, photos: str) -> None:
    found = flickr30k(flickr30k_folder(tmp_path / "f", photos), images, COUNTS)
    assert found.captions == [
        ("1.jpg", "Two young guys with shaggy hair look at their hands ."),
        ("1.jpg", "Two young , White males are outside | near many bushes ."),
        ("2199200615.jpg", "A dog runs ."),
        ("2199200615.jpg", "A dog runs across the grass ."),
        ("2.jpg", 'A man in a "red" shirt .'),
    ]
    assert [problem.kind for problem in found.problems] == ["duplicate caption"]  # it is among the published captions
    assert (found.splits, found.split_source) == ({}, "")
    assert (images / "2199200615.jpg").read_bytes() == jpeg(1)


def test_the_parent_of_the_published_folder_is_a_source_too(tmp_path: Path, images: Path) -> None:
    flickr30k_folder(tmp_path / "archive/flickr30k_images")
    assert len(flickr30k(tmp_path / "archive", images, COUNTS).captions) == 5


@pytest.mark.parametrize("place", [".", "flickr30k_images"])
def test_split_files_are_used(tmp_path: Path, images: Path, place: str) -> None:
    """Beside the captions, also where these are in the published folder."""
    source = tmp_path / "f"
    flickr30k_folder(source / place)
    for split, name in {"train": "1.jpg", "val": "2.jpg", "test": "2199200615.jpg"}.items():
        (source / f"{split}.txt").write_text(name)
    found = flickr30k(source, images, COUNTS)
    assert found.splits == {"train": ["1.jpg"], "val": ["2.jpg"], "test": ["2199200615.jpg"]}
    assert found.split_source == "train.txt, val.txt, test.txt"


def test_split_files_in_the_published_folder_are_used(tmp_path: Path, images: Path) -> None:
    inner = flickr30k_folder(tmp_path / "f/flickr30k_images")
    for split, name in {"train": "1.jpg", "val": "2.jpg", "test": "2199200615.jpg"}.items():
        (inner / f"{split}.txt").write_text(name)
    (tmp_path / "f/splits.json").write_text("{}")
    found = flickr30k(tmp_path / "f", images, COUNTS)
    assert found.splits == {"train": ["1.jpg"], "val": ["2.jpg"], "test": ["2199200615.jpg"]}
    assert [note.partition(";")[0] for note in found.notes] == ["not read: splits.json"]


def test_other_counts_are_refused(tmp_path: Path, images: Path) -> None:
    with pytest.raises(
        CaptionlabError,
        match=r"is not what was published: 3 photos, 6 captions instead of 31,783 photos, 158,915 captions; get it"
        r" again, or use dataset.format folder for a selection of your own$",
    ):
        flickr30k(flickr30k_folder(tmp_path / "f"), images)


def test_other_captions_files_are_not_read(tmp_path: Path, images: Path) -> None:
    source = flickr30k_folder(tmp_path / "f")
    (source / "results.csv").rename(source / "captions.csv")
    with pytest.raises(CaptionlabError, match=r"no captions file \(results.csv, results_20130124.token\)"):
        flickr30k(source, images)
