"""Checks of a dataset: what is kept, listed and refused."""

import os
import struct
import unicodedata
import zlib
from pathlib import Path

import pytest

from captionlab.core.records import SPLITS, CaptionedImage
from captionlab.datasets import Found
from captionlab.errors import CaptionlabError
from photo_sets import checked, jpeg, kinds


def found(images: Path, **photos: str) -> Found:
    """Ten valid photos a, b, ... in the splits given as {split: letters}, each with one caption."""
    for number, letter in enumerate("abcdefghij"):
        (images / f"{letter}.jpg").write_bytes(jpeg(number))
    named = {"train": "abcdef", "val": "gh", "test": "ij"} | photos
    return Found(
        captions=[(f"{letter}.jpg", f"caption {letter}") for letter in "abcdefghij"],
        splits={split: [f"{letter}.jpg" for letter in named[split]] for split in SPLITS},
    )


def test_a_valid_dataset_has_no_problems(images: Path) -> None:
    result = checked(found(images), images, 0.0)
    assert result.problems == []
    assert [record.image[0] for record in result.records] == list("abcdefghij")
    assert result.records[6] == CaptionedImage(image="g.jpg", split="val", captions=("caption g",))
    assert result.set_aside == 0


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_corrupt_photo_is_listed_and_left_out(images: Path, damage: str) -> None:
    raw = found(images)
    whole = jpeg(3)
    (images / "b.jpg").write_bytes({"cut": whole[: len(whole) // 2], "text": b"no photo", "empty": b""}[damage])
    result = checked(raw, images)
    assert kinds(result.problems) == [("corrupt photo", "b.jpg")]
    assert str(images) not in result.problems[0].detail
    assert "b.jpg" not in {record.image for record in result.records}


def test_unmatched_names_are_listed(images: Path) -> None:
    raw = found(images, train="abcdeaz")
    captions = [*raw.captions[1:], ("y.jpg", "of nothing"), ("y.jpg", "again"), ("b.jpg", " ")]
    (images / "c.jpg").write_bytes((images / "d.jpg").read_bytes())
    result = checked(Found(captions=captions, splits=raw.splits), images)
    assert kinds(result.problems) == [
        ("caption without photo", "y.jpg"),
        ("duplicate photo", "d.jpg"),
        ("empty caption", "b.jpg"),
        ("photo without captions", "a.jpg"),
        ("split names photo twice", "a.jpg"),
        ("split names unknown photo", "z.jpg"),
    ]
    assert result.problems[0].detail == "2 captions"
    assert [record.image[0] for record in result.records] == list("bcdeghij")
    assert result.set_aside == 1  # f is in no split


def test_too_many_bad_photos_stop_the_run(images: Path) -> None:
    raw = found(images)
    (images / "b.jpg").write_bytes(b"")
    assert checked(raw, images, 0.1).problems
    with pytest.raises(CaptionlabError, match=r"1 of 10 photos .*corrupt photo: b.jpg.*max_bad_share, now 0.09"):
        checked(raw, images, 0.09)


def test_too_many_bad_captions_stop_the_run(images: Path) -> None:
    raw = found(images)
    raw.captions.append(("nowhere.jpg", "x"))
    with pytest.raises(CaptionlabError, match=r"1 of 11 captions .*caption without photo: nowhere.jpg") as caught:
        checked(raw, images, 0.05)
    assert "the captions name 'nowhere.jpg', a photo is named 'a.jpg'" in str(caught.value)


@pytest.mark.parametrize("caption", ["😍😍", "!!!", "...", "❤️", "👨‍👩‍👧"])
def test_a_caption_without_words_is_listed_and_its_photo_left_out(images: Path, caption: str) -> None:
    raw = found(images)
    raw.captions[0] = ("a.jpg", caption)
    result = checked(raw, images)
    assert kinds(result.problems) == [("caption without words", "a.jpg"), ("photo without captions", "a.jpg")]
    assert "a.jpg" not in {record.image for record in result.records}
    with pytest.raises(CaptionlabError, match=r"1 of 10 captions .*caption without words: a.jpg"):
        checked(raw, images, 0.05)


def test_captions_and_names_are_normalised_to_nfc(images: Path) -> None:
    """macOS writes an accented letter as two characters."""
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    raw = found(images)
    (images / "a.jpg").rename(images / f"{decomposed}.jpg")
    raw.captions[0] = (f"{composed}.jpg", f"A {decomposed} .")
    raw.splits["train"][0] = f"{composed}.jpg"
    result = checked(raw, images, 0.0)
    record = next(record for record in result.records if record.image == f"{composed}.jpg")
    assert record.captions == (f"A {composed} .",)


def test_errors_include_the_notes_of_the_reader(images: Path) -> None:
    raw = Found(captions=[], splits=found(images).splits, notes=["skipped 2 files"])
    with pytest.raises(CaptionlabError, match="; skipped 2 files; correct the dataset"):
        checked(raw, images, 0.5)


def test_overlapping_splits_stop_the_run(images: Path) -> None:
    with pytest.raises(CaptionlabError, match=r"train and test share 1 photo \(a.jpg\)"):
        checked(found(images, test="ija"), images)


def test_a_split_without_photos_stops_the_run(images: Path) -> None:
    with pytest.raises(CaptionlabError, match="the val split has no usable photo"):
        checked(found(images, val=""), images)


def test_the_digest_depends_on_photos_captions_and_splits(images: Path) -> None:
    raw = found(images)
    digests = [checked(raw, images).digest, checked(raw, images).digest]
    digests.append(checked(Found(captions=raw.captions[::-1], splits=raw.splits), images).digest)
    assert len(set(digests)) == 1
    digests.append(checked(found(images, train="abcde", val="fgh"), images).digest)
    raw.captions[0] = ("a.jpg", "another caption")
    digests.append(checked(raw, images).digest)
    (images / "a.jpg").write_bytes(jpeg(99))
    digests.append(checked(raw, images).digest)
    assert len(set(digests)) == 4


def test_records_round_trip_through_found(images: Path) -> None:
    records = checked(found(images), images).records
    assert checked(Found.of(records), images).records == records


def test_photos_are_checked_as_later_stages_read_them(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos that are too large and PostScript programs are corrupt, and are refused before decoding."""
    tool = tmp_path / "bin/gs"  # Pillow runs Ghostscript for PostScript
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    raw = found(images)
    head = struct.pack(">IIBBBBB", 20_000, 6_000, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (images / "b.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    (images / "c.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    result = checked(raw, images)
    assert kinds(result.problems) == [("corrupt photo", "b.jpg"), ("corrupt photo", "c.jpg")]
    assert "20000x6000 pixels" in result.problems[0].detail
    assert not (tmp_path / "ran").exists()


def test_an_overlong_caption_is_not_used(images: Path) -> None:
    raw = found(images)
    raw.captions.append(("a.jpg", "a " * 500_000))
    result = checked(raw, images)
    assert kinds(result.problems) == [("overlong caption", "a.jpg")]
    assert max(len(caption) for record in result.records for caption in record.captions) < 100
