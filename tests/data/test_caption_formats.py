"""The formats of references and captions for score, and errors for other files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captionlab.data.caption_formats import captions_by_split, read_captions, read_references
from captionlab.errors import CaptionlabError

PHOTOS = ("p0.jpg", "p1.jpg")
IDS = (17, 4)
REFERENCES = [["A dog runs .", "The dog runs fast ."], ["A cat sits .", "The cat ."]]
CAPTIONS = ["a dog runs", ""]
PLAIN_REFERENCES = dict(zip(PHOTOS, REFERENCES, strict=True))
PLAIN_CAPTIONS = dict(zip(PHOTOS, CAPTIONS, strict=True))
BY_ID = {str(image): captions for image, captions in zip(IDS, REFERENCES, strict=True)}
STEMS = dict(zip(("p0", "p1"), REFERENCES, strict=True))
COCO = {
    "images": [{"id": image, "file_name": name} for image, name in zip(IDS, PHOTOS, strict=True)],
    "annotations": [
        {"id": 10 * image + place, "image_id": image, "caption": caption}
        for image, captions in zip(IDS, REFERENCES, strict=True)
        for place, caption in enumerate(captions)
    ],
}
KARPATHY: dict[str, Any] = {
    "dataset": "coco",
    "images": [
        {"filename": name, "cocoid": image, "split": "test", "sentences": [{"raw": caption} for caption in captions]}
        for image, name, captions in zip(IDS, PHOTOS, REFERENCES, strict=True)
    ]
    + [{"filename": "other.jpg", "cocoid": 5, "split": "train", "sentences": [{"raw": "A horse ."}]}],
}
RESULTS = [{"image_id": image, "caption": caption} for image, caption in zip(IDS, CAPTIONS, strict=True)]


def written(folder: Path, value: Any) -> Path:
    path = folder / "file.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def lines(folder: str = "") -> bytes:
    rows = (
        {"image": f"{folder}{name}", "caption": caption, "log_prob": -1.5} for name, caption in PLAIN_CAPTIONS.items()
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.mark.parametrize(("value", "expected"), [
    (PLAIN_REFERENCES, [PLAIN_REFERENCES, STEMS]),
    (b"\xef\xbb\xbf" + json.dumps(PLAIN_REFERENCES).encode(), [PLAIN_REFERENCES, STEMS]),  # with a byte order mark
    (json.dumps(PLAIN_REFERENCES, indent=1).encode(), [PLAIN_REFERENCES, STEMS]),
    (COCO, [BY_ID, PLAIN_REFERENCES, STEMS]),
    ({"annotations": COCO["annotations"]}, [BY_ID]),
    (KARPATHY, [
        PLAIN_REFERENCES, BY_ID, {"other.jpg": ["A horse ."]}, {"5": ["A horse ."]},
        PLAIN_REFERENCES | {"other.jpg": ["A horse ."]}, BY_ID | {"5": ["A horse ."]},
        STEMS, {"other": ["A horse ."]}, STEMS | {"other": ["A horse ."]},
    ]),
    ({"images": KARPATHY["images"][1::-1]}, [PLAIN_REFERENCES, BY_ID, STEMS]),
    ({"images": [{**image, "cocoid": None} for image in KARPATHY["images"][:2]]}, [PLAIN_REFERENCES, STEMS]),
    ({"a.jpg": ["A"], "a.png": ["B"]}, [{"a.jpg": ["A"], "a.png": ["B"]}]),  # two photos without their suffixes
    (
        b"\r\n\n" + b"p0.jpg#0\tA\r\n\r\np0.jpg#1\tB\np0.jpg#0\tA\np0.jpg#0\tC\n\n",
        [{"p0.jpg": ["A", "B", "C"]}, {"p0": ["A", "B", "C"]}],
    ),
    ({"cafe\u0301": ["A"]}, [{"caf\u00e9": ["A"]}]),
])  # fmt: skip
def test_references_are_read_under_each_kind_of_id(tmp_path: Path, value: Any, expected: Any) -> None:
    assert read_references(written(tmp_path, value)) == expected


@pytest.mark.parametrize(("value", "expected"), [
    (PLAIN_CAPTIONS, [PLAIN_CAPTIONS]),
    ({name: [caption] for name, caption in PLAIN_CAPTIONS.items()}, [PLAIN_CAPTIONS]),
    (lines(), [PLAIN_CAPTIONS, PLAIN_CAPTIONS]),
    (lines().rstrip(), [PLAIN_CAPTIONS, PLAIN_CAPTIONS]),
    (lines().replace(b"\n", b"\n\r\n"), [PLAIN_CAPTIONS, PLAIN_CAPTIONS]),
    ({f"photos/{name}": own for name, own in PLAIN_CAPTIONS.items()}, [
        {f"photos/{name}": own for name, own in PLAIN_CAPTIONS.items()}, PLAIN_CAPTIONS,
    ]),
    ({"a/1.jpg": "x", "b/1.jpg": "y"}, [{"a/1.jpg": "x", "b/1.jpg": "y"}]),
    ({"a/\u00e9": "x", "b/e\u0301": "y"}, [{"a/\u00e9": "x", "b/\u00e9": "y"}]),
    (lines().splitlines()[0], [{"p0.jpg": "a dog runs"}] * 2),  # one line is also one JSON object
])  # fmt: skip
def test_captions_are_read(tmp_path: Path, value: Any, expected: Any) -> None:
    assert read_captions(written(tmp_path, value)) == expected


def test_coco_results_have_numeric_ids(tmp_path: Path) -> None:
    assert read_captions(written(tmp_path, RESULTS))[0] == {"17": "a dog runs", "4": ""}


def test_ids_of_jsonl_are_paths_or_file_names(tmp_path: Path) -> None:
    paths, names = read_captions(written(tmp_path, lines("photos/")))
    assert paths == {f"photos/{name}": caption for name, caption in PLAIN_CAPTIONS.items()}
    assert names == PLAIN_CAPTIONS
    assert read_captions(written(tmp_path, lines("C:\\photos\\")))[1] == PLAIN_CAPTIONS
    two_folders = lines("a/") + lines("b/")  # where file names are not unique, only paths are ids
    assert len(read_captions(written(tmp_path, two_folders))) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"1" * 5000, "is not JSON; known formats: .*COCO annotations.*Karpathy"),
        (b"\x89PNG", "is not UTF-8"),
        (b"", "is not JSON; known formats: "),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "no references with image ids; known formats: .*COCO annotations.*Karpathy"),
        (b"{}", "no references with image ids"),
        (b"7", "is not JSON; known formats: "),
        (RESULTS, "no references with image ids"),
        (lines(), "no references with image ids"),
        (b'{"a": ["x"], "a": ["y"]}', "'a' occurs more than once"),
        ({"a": "a dog"}, "must have a list of at least one reference; known formats: .*Karpathy"),
        ({"a": []}, "at least one reference"),
        ({"a": ["a dog", 3]}, "not text or is blank"),
        ({"a": [" "]}, "not text or is blank"),
        (b'{"a": ["a dog \\ud83d"]}', "not text or is blank"),
        (b'{"a": ["caf\xe9"]}', "not UTF-8"),
        ({"annotations": [{"caption": "A dog ."}]}, "annotation 0 has no image_id or no caption"),
        ({"annotations": [{"image_id": 1}]}, "annotation 0 has no image_id or no caption"),
        ({"annotations": [{"image_id": 1, "caption": None}]}, "image '1' has a reference that is not text or is blank"),
        ({"images": [{"split": "test", "filename": "a"}]}, "no filename or no sentences"),
        ({"images": [KARPATHY["images"][0]] * 2}, r"'p0\.jpg' occurs more than once"),
        (b"a.jpg#0\ta dog\na.jpg a cat", "line 2: there must be a file name, # and a number, a tab, a caption"),
        (b"a.jpg#0\ta dog\na.jpg#1\t", "'a.jpg' has a reference that is not text or is blank"),
        (
            b'{"image": "a", "split": "test", "captions": ["x"]}\n{"image": "b"}',
            "line 2: there must be captions, image",
        ),
        (b'{"image": "a", "split": "test", "captions": ["x"]}\n' * 2, "'a' occurs more than once"),
        ({"a": ["x", "a " * 500_000]}, r"image 'a' has a caption of 1,000,000 characters; at most 10,000"),
    ],
)
def test_invalid_references_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    expect_error(read_references, written(tmp_path, content), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"image,caption\na.jpg,A dog\n", "is not JSON; known formats: .*COCO results.*captionlab caption --out"),
        ({"caf\u00e9": "x", "cafe\u0301": "x"}, "'caf\u00e9' occurs more than once"),
        (b"[]", "no captions with image ids; known formats: .*COCO results.*captionlab caption --out"),
        (["a dog"], "no captions with image ids"),
        ({"a": ["a dog", "the dog"]}, "image 'a' must have one caption, of valid text; known formats: .*COCO results"),
        ({"a": None}, "must have one caption"),
        (b'{"a": "a dog \\ud83d"}', "must have one caption, of valid text"),
        (COCO, "must have one caption"),
        (KARPATHY, "must have one caption"),
        (b'{"a": "x", "a": "x"}', "'a' occurs more than once"),
        (RESULTS + RESULTS[:1], "'17' occurs more than once"),
        ([{"image_id": 1, "caption": "x"}, {"image_id": "1", "caption": "x"}], "'1' occurs more than once"),
        ([{"image_id": True, "caption": "x"}], "entry 0 has no image_id or no caption"),
        ([{"image_id": 1, "caption": "x"}, {"image_id": 2}], "entry 1 has no image_id or no caption"),
        (lines() + lines(), r"'p0\.jpg' occurs more than once"),
        (lines() + b'{"image": "p2.j', "line 3 is not valid JSON"),
        (b"\n" + lines() + b'\n{"image": "p2.j', "line 5 is not valid JSON"),
        (lines() + b"[1]\n", "no captions with image ids"),
        ({"a": "a " * 500_000}, r"image 'a' has a caption of 1,000,000 characters; at most 10,000"),
    ],
)
def test_invalid_captions_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    expect_error(read_captions, written(tmp_path, content), message)


@pytest.mark.parametrize("read", [read_references, read_captions])
def test_a_missing_file_and_a_folder_are_refused(read: Callable[[Path], object], tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        expect_error(read, path, "cannot read")


def expect_error(read: Callable[[Path], object], path: Path, message: str) -> None:
    with pytest.raises(CaptionlabError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- captions of a dataset's photos


@pytest.mark.parametrize(
    "ids",
    [
        ("COCO_val2014_000000000042.jpg", "beach.jpg"), ("COCO_val2014_000000000042", "beach"), ("42", "beach.jpg"),
        ("photos/COCO_val2014_000000000042.jpg", "photos/beach.jpg"), ("000000000042", "beach.jpg"),
        (r"C:\photos\COCO_val2014_000000000042.jpg", r"C:\photos\beach.jpg"),
    ],
)  # fmt: skip
def test_ids_are_file_names_stems_or_coco_ids(tmp_path: Path, ids: tuple[str, str]) -> None:
    path = tmp_path / "captions.jsonl"
    lines = [json.dumps({"image": image, "caption": f"caption {n}"}) for n, image in enumerate(ids)]
    path.write_text("\n".join(lines))
    images = ("COCO_val2014_000000000042.jpg", "beach.jpg")
    found = captions_by_split(path, {"val": ["a.jpg"], "test": images})
    assert found == {"test": {images[0]: "caption 0", images[1]: "caption 1"}}


def test_an_ambiguous_id_matches_no_photo(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"7": "a dog", "b.jpg": "a cat"}))
    fault = r"2 photos have no caption; .* \(a_7\.jpg, b_7\.jpg\) and 1 ids mean several photos; use file names \(7\)$"
    with pytest.raises(CaptionlabError, match=fault):
        captions_by_split(path, {"test": ["a_7.jpg", "b_7.jpg", "b.jpg"]})


def test_a_photo_under_two_ids_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"a.jpg": "a dog", "a": "a cat"}))
    with pytest.raises(CaptionlabError, match=r"'a\.jpg' has two captions"):
        captions_by_split(path, {"test": ["a.jpg"]})
