"""Matching of names in captions files with photos."""

import unicodedata
from pathlib import Path

import pytest

from captionlab.datasets.photo_names import PhotoNames
from captionlab.errors import CaptionlabError


def names(*paths: str) -> PhotoNames:
    folder = Path("photos")
    return PhotoNames(folder, [folder / path for path in paths])


@pytest.mark.parametrize(
    "written",
    [
        "a.jpg", "./a.jpg", "Images/a.jpg", "Images\\a.jpg", "C:\\data\\Images\\a.jpg", "/data/Images/a.jpg", "a",
        "a.JPG", "A.jpg", "images/A", "a.jpg#0", "a.jpg#12", "Images/a#3",
    ],
)  # fmt: skip
def test_variants_of_a_name_match_one_photo(written: str) -> None:
    assert names("a.jpg", "b.jpg").find(written) == "a.jpg"


@pytest.mark.parametrize("written", ["c.jpg", "a.png", "a.jpg.1", "xa.jpg", "a.jpg#", "#0", "", "a.jpg/c", "other/c"])
def test_a_name_without_a_photo_is_unchanged(written: str) -> None:
    assert names("a.jpg", "b.jpg").find(written) == written


def test_the_exact_name_takes_precedence() -> None:
    photos = names("a.jpg", "A.jpg", "a.png", "a.jpg#0.jpg", "b#1")
    assert [photos.find(name) for name in ("a.jpg", "A.jpg", "a.png", "b#1")] == ["a.jpg", "A.jpg", "a.png", "b#1"]
    assert photos.find("a.jpg#0") == "a.jpg#0.jpg"


def test_an_ambiguous_name_is_unchanged() -> None:
    photos = names("a.jpg", "a.png", "x/b.jpg", "y/b.jpg")
    written = ["a", "b.jpg", "B", "z/b.jpg"]
    assert [photos.find(name) for name in written] == written
    assert photos.ambiguous([*written, "c.jpg"]) == [
        "3 names could mean several photos (a, b.jpg, B); write their folders and suffixes"
    ]
    assert photos.ambiguous(["z/b.jpg", "c.jpg"]) == []


def test_photos_in_subfolders_are_found_with_and_without_their_folders() -> None:
    photos = names("top.jpg", "x/a.jpg", "x/b.jpg", "y/b.jpg")
    assert list(photos.files) == ["top.jpg", "a.jpg", "x__b.jpg", "y__b.jpg"]
    assert photos.files["y__b.jpg"] == Path("photos/y/b.jpg")
    assert photos.find("a.jpg") == photos.find("x/a.jpg") == photos.find("Images/x/A") == "a.jpg"
    assert photos.find("y/b.jpg") == photos.find("photos\\y\\b.jpg#1") == "y__b.jpg"
    assert photos.find("y/a.jpg") == "y/a.jpg"  # not the photo in another folder


def test_both_unicode_forms_of_an_accent_match() -> None:
    composed, decomposed = "é.jpg", unicodedata.normalize("NFD", "é.jpg")
    for photo in (composed, decomposed):
        for written in (composed, decomposed):
            assert names(photo).find(written) == composed


def test_two_photos_with_one_name_are_a_problem() -> None:
    photos = names("é.jpg", unicodedata.normalize("NFD", "é.jpg"), "x/b.jpg", "y/b.jpg", "x__b.jpg")
    assert list(photos.files) == ["é.jpg", "x__b.jpg", "y__b.jpg"]
    assert [problem.item for problem in photos.problems] == ["é.jpg", "x__b.jpg"]


def test_a_name_that_is_too_long_with_its_folders_is_refused() -> None:
    folder = "x" * 130
    assert len(names(f"{folder}/{folder}/a.jpg").files) == 1
    with pytest.raises(
        CaptionlabError, match=r"the photo x+/x+/a\.jpg would have 269 bytes .*, more than 255; shorten"
    ):
        names("a.jpg", f"{folder}/{folder}/a.jpg")


def test_a_name_that_is_not_valid_text_is_escaped() -> None:
    assert list(names("caf\udce9.jpg").files) == ["caf\\xe9.jpg"]
