"""Splits of the dataset and splits drawn at random."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionlab.config import DatasetParams, Params
from captionlab.core.records import SPLITS
from captionlab.datasets import Found
from captionlab.datasets.flickr8k import SPLIT_FILES
from captionlab.datasets.splits import completed, draw, read_split_files, split_named
from captionlab.errors import CaptionlabError


@settings(deadline=None)
@given(
    st.sets(st.text(min_size=1, max_size=4), min_size=5, max_size=40),
    st.floats(0.05, 0.4),
    st.floats(0.05, 0.4),
    st.integers(0, 100),
)
def test_every_photo_is_in_one_split(photos: set[str], val: float, test: float, seed: int) -> None:
    splits = draw({"val": val, "test": test}, photos, seed)
    assert sorted(photo for split in SPLITS for photo in splits[split]) == sorted(photos)
    assert abs(len(splits["val"]) - max(2, val * len(photos))) <= 1
    assert abs(len(splits["test"]) - max(2, test * len(photos))) <= 1
    assert splits == draw({"val": val, "test": test}, set(sorted(photos, reverse=True)), seed)


@pytest.mark.parametrize(("count", "shares", "sizes"), [
    (3, (0.1, 0.1), (1, 1, 1)), (5, (0.1, 0.1), (3, 1, 1)), (6, (0.1, 0.1), (2, 2, 2)), (10, (0.1, 0.1), (6, 2, 2)),
    (15, (0.1, 0.1), (11, 2, 2)), (26, (0.1, 0.1), (20, 3, 3)), (6, (0.1, 0.7), (1, 1, 4)), (10, (0.1, 0.3), (5, 2, 3)),
])  # fmt: skip
def test_a_split_has_two_photos_where_enough_are_left_to_train_on(
    count: int, shares: tuple[float, float], sizes: tuple[int, int, int]
) -> None:
    """CIDEr of one photo is always 0."""
    splits = draw({"val": shares[0], "test": shares[1]}, {str(n) for n in range(count)}, 0)
    assert tuple(len(splits[split]) for split in SPLITS) == sizes


def test_the_split_of_a_seed_stays_the_same() -> None:
    splits = draw({"val": 0.1, "test": 0.1}, set(PHOTOS), 3)
    assert (splits["val"], splits["test"]) == (["19.jpg", "23.jpg", "29.jpg"], ["05.jpg", "15.jpg", "22.jpg"])


def test_a_split_without_a_share_is_refused() -> None:
    with pytest.raises(CaptionlabError, match="val_share must be above 0; the dataset has no val split"):
        draw({"val": 0.0, "test": 0.1}, {str(n) for n in range(50)}, 0)


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(CaptionlabError, match="of 3 photos with captions none is left"):
        draw({"val": 0.4, "test": 0.55}, {"a", "b", "c"}, 0)


@pytest.fixture
def shares(project_params: Params) -> DatasetParams:
    return dataclasses.replace(project_params.dataset, val_share=0.1, test_share=0.2, split_seed=3)


PHOTOS = [f"{number:02d}.jpg" for number in range(30)]


def test_without_splits_the_photos_with_captions_are_split(shares: DatasetParams) -> None:
    found = Found(captions=[(photo, "A dog") for photo in [*PHOTOS[:20], "nowhere.jpg"]], splits={})
    splits = completed(found, PHOTOS, shares).splits
    assert splits == draw({"val": 0.1, "test": 0.2}, set(PHOTOS[:20]), 3)
    assert completed(Found(captions=[], splits=splits), PHOTOS, shares).splits is splits


def test_a_missing_split_is_drawn_from_training_with_a_note(shares: DatasetParams) -> None:
    found = Found(captions=[], splits={"test": PHOTOS[20:], "train": PHOTOS[:20]}, notes=["first"])
    result = completed(found, PHOTOS, shares)
    assert result.splits["test"] == PHOTOS[20:]
    assert len(result.splits["val"]) == 2
    assert sorted(result.splits["train"] + result.splits["val"]) == PHOTOS[:20]
    assert result.notes == ["first", "the dataset has no val split: drawn at random from its training photos"]


def test_splits_are_drawn_from_photos_that_are_there(shares: DatasetParams) -> None:
    missing = [f"missing_{number}.jpg" for number in range(80)]
    found = completed(Found(captions=[], splits={"train": [*missing, *PHOTOS]}), PHOTOS, shares)
    assert not {*missing} & {*found.splits["val"], *found.splits["test"]}
    assert len(found.splits["test"]) == round(0.2 * len(PHOTOS))
    assert {*found.splits["train"]} == {*missing, *PHOTOS} - {*found.splits["val"], *found.splits["test"]}


@pytest.mark.parametrize("listed", [True, False])
def test_photos_that_cannot_be_used_are_not_drawn(shares: DatasetParams, listed: bool) -> None:
    """The checks name them, and they stay in a split that names them."""
    found = Found(captions=[(photo, "A dog") for photo in PHOTOS], splits={"train": PHOTOS} if listed else {})
    splits = completed(found, PHOTOS, shares, lambda: PHOTOS[:10]).splits
    assert [len(splits["val"]), len(splits["test"])] == [2, 2]
    assert {*splits["val"], *splits["test"]} < {*PHOTOS[:10]}
    assert {*PHOTOS[10:]} & {*splits["train"]} == ({*PHOTOS[10:]} if listed else set())


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (Found(captions=[], splits={"val": ["00.jpg"]}), "no train split, only val"),
        (
            Found(captions=[("p/00.png", "x")], splits={}),
            "^0 photos .* train, val and test; the captions name 'p/00.png', a photo is named '00.jpg'$",
        ),
        (
            Found(captions=[("00.jpg", "x"), ("01.jpg", "x")], splits={}),
            "^2 photos .* too few for train, val and test$",
        ),
        (Found(captions=[], splits={"train": ["00.jpg"], "val": ["01.jpg"]}), "^1 photos .* too few for train, test$"),
    ],
)
def test_too_few_photos_are_refused(shares: DatasetParams, found: Found, fault: str) -> None:
    with pytest.raises(CaptionlabError, match=fault):
        completed(found, PHOTOS, shares)


@pytest.mark.parametrize("files", [
    ("train.txt", "val.txt", "test.txt"),
    ("train.txt", "validation.txt", "test.txt"),
    ("TRAIN.TXT", "dev.txt", "testing.txt"),
    tuple(SPLIT_FILES.values()),
    ("flickr30k_train.txt", "flickr30k_val.txt", "flickr30k_test.txt"),
    ("train_images.txt", "val_images.txt", "test_images.txt"),
])  # fmt: skip
def test_split_files_are_read_and_incomplete_ones_refused(tmp_path: Path, files: tuple[str, str, str]) -> None:
    (tmp_path / "captions.txt").write_text("image,caption\n")
    assert read_split_files(tmp_path) == ({}, [])
    train, val, test = (tmp_path / name for name in files)
    train.write_text("a.jpg\n\n b.jpg \n")
    val.write_text("c.jpg\n")
    fault = rf"has split files \({', '.join(sorted(files[:2]))}\), but none for test; give all three or none$"
    with pytest.raises(CaptionlabError, match=fault):
        read_split_files(tmp_path)
    test.write_bytes(b"\xef\xbb\xbfd.jpg\r\n")
    found = {"train": ["a.jpg", "b.jpg"], "val": ["c.jpg"], "test": ["d.jpg"]}
    assert read_split_files(tmp_path) == (found, list(files))


@pytest.mark.parametrize("folder", ["splits", "Splits", "Images", "Flickr8k_text"])
def test_split_files_may_be_in_a_folder_of_their_own(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / "requirements-dev.txt").write_text("torch")  # no split file
    for split in SPLITS:
        (tmp_path / f"{folder}/{split}.txt").write_text(f"filename\n{split}.jpg\n")
    files = [f"{folder}/{split}.txt" for split in SPLITS]
    assert read_split_files(tmp_path) == ({split: [f"{split}.jpg"] for split in SPLITS}, files)


def test_several_split_files_for_a_split_are_refused(tmp_path: Path) -> None:
    for name in ("a_train.txt", "a_val.txt", "a_test.txt", "b_train.txt", "b_test.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("a.jpg\n")
    with pytest.raises(
        CaptionlabError,
        match=r"several sets of split files \(a_test.txt, a_train.txt, a_val.txt, b_test.txt, b_train.txt\)",
    ):
        read_split_files(tmp_path)
    for name in ("train.txt", "val.txt", "dev.txt", "test.txt"):
        (tmp_path / name).write_text("a.jpg\n")
    with pytest.raises(CaptionlabError, match=r"several files for a split \(dev.txt, val.txt, test.txt, train.txt\)"):
        read_split_files(tmp_path)
    (tmp_path / "dev.txt").unlink()
    assert read_split_files(tmp_path)[1] == ["train.txt", "val.txt", "test.txt"]  # these take precedence


def test_alternative_split_names_are_accepted() -> None:
    assert [split_named(name, "a.jpg") for name in ("train", "restval", "Validation", " dev", "test")] == [
        "train", "train", "val", "val", "test",
    ]  # fmt: skip
    with pytest.raises(CaptionlabError, match=r"the split 'fold 1' of the photo a\.jpg is unknown"):
        split_named("fold 1", "a.jpg")
