"""The reader of Parquet files with photos and captions."""

import dataclasses
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionlab.config import Params
from captionlab.core.records import SPLITS
from captionlab.datasets.parquet import parquet
from captionlab.datasets.splits import completed
from captionlab.errors import CaptionlabError
from photo_sets import checked, jpeg, kinds


def rows(count: int, start: int = 0, path: str | None = "photo_{}.jpg", captions: int = 5) -> pa.Table:
    numbers = range(start, start + count)
    image = [{"bytes": jpeg(n), "path": path.format(n) if path else None} for n in numbers]
    table = {"image": image} | {f"caption_{i}": [f"caption {i} of {n}" for n in numbers] for i in range(captions)}
    return pa.table(table)


def parquet_files(source: Path, **changed: pa.Table) -> Path:
    data = source / "data"
    data.mkdir(parents=True)
    tables = {"train-00000-of-00002": rows(40), "train-00001-of-00002": rows(3, 40)}
    tables |= {"validation-00000-of-00001": rows(2, 50), "test-00000-of-00001": rows(2, 60)} | changed
    for name, table in tables.items():
        pq.write_table(table, data / f"{name}.parquet")
    return source


def test_photo_bytes_are_kept_unchanged(tmp_path: Path, images: Path) -> None:
    raw = parquet(parquet_files(tmp_path / "hub"), images)
    result = checked(raw, images, 0.0)
    assert [sum(record.split == split for record in result.records) for split in SPLITS] == [43, 2, 2]
    assert result.problems == []
    assert raw.split_source == "the files' names"
    assert (images / "photo_42.jpg").read_bytes() == jpeg(42)
    assert result.records[-1].captions == tuple(f"caption {i} of 61" for i in range(5))


def test_photos_without_unique_names_get_new_names(tmp_path: Path, images: Path) -> None:
    names = {"train-2": rows(12, 100, path=None, captions=11), "validation-1": rows(2, 70, "../../same.jpg")}
    raw = parquet(parquet_files(tmp_path / "hub", **names), images)
    assert raw.splits["train"][:2] == ["photo_0.jpg", "photo_1.jpg"]
    assert "train-00043.jpg" in raw.splits["train"]
    assert raw.splits["val"] == ["photo_50.jpg", "photo_51.jpg", "same.jpg", "val-00003.jpg"]
    assert not (tmp_path / "same.jpg").exists()
    texts = [text for photo, text in raw.captions if photo == "train-00043.jpg"]
    assert texts == [f"caption {i} of 100" for i in range(11)]  # by number: caption_10 is the last


def test_a_new_name_is_not_that_of_another_row(tmp_path: Path, images: Path) -> None:
    (tmp_path / "hub").mkdir()
    table = pa.concat_tables([rows(1, path="photo-00001.jpg"), rows(1, 1, path=None)], promote_options="permissive")
    pq.write_table(table, tmp_path / "hub/photos.parquet")
    found = parquet(tmp_path / "hub", images)
    assert {photo for photo, _ in found.captions} == {"photo-00001.jpg", "_photo-00001.jpg"}
    assert (images / "photo-00001.jpg").read_bytes() == jpeg(0)
    assert (images / "_photo-00001.jpg").read_bytes() == jpeg(1)


def test_a_photo_with_a_row_for_each_caption_is_one_photo(tmp_path: Path, images: Path) -> None:
    again = rows(4, path=None).set_column(0, "image", rows(2, path=None)["image"].combine_chunks().take([0, 0, 1, 1]))
    (tmp_path / "hub").mkdir()
    pq.write_table(again, tmp_path / "hub/photos.parquet")
    found = parquet(tmp_path / "hub", images)
    assert [photo for photo, _ in found.captions] == ["photo-00000.jpg"] * 10 + ["photo-00002.jpg"] * 10
    assert sorted(path.name for path in images.iterdir()) == ["photo-00000.jpg", "photo-00002.jpg"]


@pytest.mark.parametrize(("names", "splits"), [
    (["train_test_split"], []),
    (["testset-train", "testset-val"], ["train", "val"]),
    (["default/train/0000", "default/validation/0000", "default/test/0000"], ["train", "val", "test"]),
])  # fmt: skip
def test_a_file_belongs_to_one_split(tmp_path: Path, images: Path, names: list[str], splits: list[str]) -> None:
    for place, name in enumerate(names):
        (tmp_path / f"hub/{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(3, 10 * place), tmp_path / f"hub/{name}.parquet")
    found = parquet(tmp_path / "hub", images)
    assert {split: len(photos) for split, photos in found.splits.items()} == dict.fromkeys(splits, 3)
    assert len(found.captions) == 15 * len(names)


def test_a_split_column_that_contradicts_the_files_names_is_refused(tmp_path: Path, images: Path) -> None:
    table = rows(2, 60).append_column("split", pa.array(["train", "train"]))
    with pytest.raises(CaptionlabError, match=r"the column split of photo_60\.jpg says train, its file's name test"):
        parquet(parquet_files(tmp_path / "hub", **{"test-00000-of-00001": table}), images)


def test_one_photo_in_two_splits_is_refused(tmp_path: Path, images: Path) -> None:
    """The same bytes under another path, and under none, are listed by the checks."""
    source = parquet_files(tmp_path / "hub", **{"validation-00000-of-00001": rows(2, 38)})
    with pytest.raises(CaptionlabError, match=r"the splits train and val share the photo photo_38\.jpg; remove it"):
        parquet(source, images)
    for path in ("other_{}.jpg", None):
        parquet(parquet_files(tmp_path / f"{path}", **{"test-00000-of-00001": rows(2, 38, path)}), images)


def test_photos_as_paths_alone_are_refused(tmp_path: Path, images: Path) -> None:
    table = pa.table({"image": [{"bytes": None, "path": "a.jpg"}], "caption": ["A dog"]})
    photo = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = table.cast(pa.schema([("image", photo), ("caption", pa.string())]))
    (tmp_path / "hub").mkdir()
    pq.write_table(table, tmp_path / "hub/photos.parquet")
    with pytest.raises(CaptionlabError, match=r"no photo's bytes are in the files, only paths"):
        parquet(tmp_path / "hub", images)


def test_an_invalid_file_name_is_replaced(tmp_path: Path, images: Path) -> None:
    names = {"test-00000-of-00001": rows(1, 60, "x" * 300 + "{}.jpg")}
    raw = parquet(parquet_files(tmp_path / "hub", **names), images)
    assert raw.splits["test"] == ["test-00000.jpg"]


def own_column(name: str, values: pa.Array) -> pa.Table:
    """Two photos with one column of captions."""
    return rows(2, 60, captions=0).append_column(name, values)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("caption_0", pa.array(["A", "B"]).dictionary_encode()),
        ("caption_0", pa.array(["A", "B"], pa.string_view())),
        ("caption_0", pa.array(["A", "B"], pa.large_string())),
        ("caption", pa.array(["A", "B"])),
        ("text", pa.array(["A", "B"])),
        ("caption", pa.array([["A", "A again"], ["B"]])),
        ("captions", pa.array([["A", "A again"], ["B"]], pa.large_list(pa.string()))),
        ("caption", pa.array([["A", "A again"], ["B"]], pa.list_(pa.string_view()))),
        ("txt", pa.array(["A", "B"])),
        ("Caption", pa.array(["A", "B"])),
        ("TEXT_1", pa.array(["A", "B"])),
        ("caption1", pa.array(["A", "B"])),
        ("sentences_raw", pa.array([["A", "A again"], ["B"]])),
        ("captions", pa.array(["['A']", '["B"]'])),
        ("sentences", pa.array([{"raw": "A", "sentid": 1}, {"raw": "B", "sentid": 2}])),
        ("sentences", pa.array([[{"raw": "A"}, {"raw": "A again"}], [{"raw": "B"}]])),
    ],
)
def test_captions_are_read_in_every_storage_type(tmp_path: Path, images: Path, column: str, values: pa.Array) -> None:
    tables = {"test-00000-of-00001": own_column(column, values)}
    raw = parquet(parquet_files(tmp_path / "hub", **tables), images)
    captions = [caption for caption in raw.captions if caption[0] in raw.splits["test"]]
    again = [("photo_60.jpg", "A again")] if isinstance(values[0].as_py(), list) else []
    assert captions == [("photo_60.jpg", "A"), *again, ("photo_61.jpg", "B")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("image", pa.binary()),
        ("Image", pa.binary()),
        ("webp", pa.large_binary()),
        ("image", pa.binary_view()),
        ("image", pa.binary(len(jpeg(60)))),
        ("image", pa.dictionary(pa.int32(), pa.binary())),
    ],
)
def test_a_column_of_bytes_has_photos_without_names(tmp_path: Path, images: Path, name: str, kind: pa.DataType) -> None:
    table = pa.table({name: pa.array([jpeg(60), jpeg(61)], kind), "caption": ["A", "B"]})
    raw = parquet(parquet_files(tmp_path / "hub", **{"test-00000-of-00001": table}), images)
    assert raw.splits["test"] == ["test-00000.jpg", "test-00001.jpg"]
    assert (images / "test-00001.jpg").read_bytes() == jpeg(61)


def test_a_split_in_the_middle_of_a_files_name_is_read(tmp_path: Path, images: Path) -> None:
    (tmp_path / "hub").mkdir()
    for place, name in enumerate(("flickr8k-train", "flickr8k-val", "flickr8k-test")):
        pq.write_table(rows(1, 10 * place), tmp_path / f"hub/{name}.parquet")
    splits = {"train": ["photo_0.jpg"], "val": ["photo_10.jpg"], "test": ["photo_20.jpg"]}
    assert parquet(tmp_path / "hub", images).splits == splits


def test_a_split_column_of_numbers_is_refused(tmp_path: Path, images: Path) -> None:
    table = rows(2).append_column("split", pa.array([0, 1]))
    with pytest.raises(CaptionlabError, match=r"the column split is not text; use train, val and test"):
        parquet(parquet_files(tmp_path / "hub", **{"test-00000-of-00001": table}), images)


@pytest.mark.parametrize("name", ["train-00000-of-00001", "test", "photos"])
def test_files_with_at_most_one_split_are_split_at_random(
    tmp_path: Path, images: Path, name: str, project_params: Params
) -> None:
    (tmp_path / "hub").mkdir()
    pq.write_table(rows(20), tmp_path / f"hub/{name}.parquet")
    raw = parquet(tmp_path / "hub", images)
    assert raw.splits == {}
    shares = dataclasses.replace(project_params.dataset, val_share=0.1, test_share=0.2)
    result = checked(completed(raw, [path.name for path in images.iterdir()], shares), images, 0.0)
    assert [sum(record.split == split for record in result.records) for split in SPLITS] == [14, 2, 4]


def test_a_split_column_is_used(tmp_path: Path, images: Path) -> None:
    """As in the copy of Flickr30k with Karpathy's splits, whose files are all named test."""
    table = rows(6).append_column("split", pa.array(["train", "train", "restval", "val", "test", None]))
    (tmp_path / "hub").mkdir()
    pq.write_table(table, tmp_path / "hub/TEST-00000-of-00001.parquet")
    names = [f"photo_{number}.jpg" for number in range(6)]
    found = parquet(tmp_path / "hub", images)
    assert found.splits == {"train": names[:3], "val": [names[3]], "test": [names[4]]}
    assert found.split_source == "the column split"


def test_files_that_are_not_read_are_noted(tmp_path: Path, images: Path) -> None:
    """A file without a split in its name, but not macOS's hidden files."""
    source = parquet_files(tmp_path / "hub", extra=rows(1, 90))
    (source / "data/._train-00000-of-00002.parquet").write_bytes(b"junk")
    raw = parquet(source, images)
    assert len(raw.splits["train"]) == 43
    assert raw.notes == ["not read, since no split is in the name: extra.parquet"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, images: Path) -> None:
    source = parquet_files(tmp_path / "hub")
    (source / "data/test-00000-of-00001.parquet").unlink()
    (source / "data/test.parquet").symlink_to("/proc/self/mem")
    with pytest.raises(CaptionlabError, match=r"test\.parquet"):
        parquet(source, images)


def test_missing_values_are_left_to_the_checks(tmp_path: Path, images: Path) -> None:
    table = pa.table(
        {
            "image": [{"bytes": None, "path": "x.jpg"}, {"bytes": jpeg(70), "path": "y.jpg"}, None],
            "caption_0": ["of x", None, "of nothing"],
        },
        schema=pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "caption_0": pa.string()}),
    )
    result = checked(parquet(parquet_files(tmp_path / "hub", **{"test-1": table}), images), images)
    assert kinds(result.problems) == [
        ("caption without photo", "test-00004.jpg"),
        ("caption without photo", "x.jpg"),
        ("empty caption", "y.jpg"),
        ("photo without captions", "y.jpg"),
        ("split names unknown photo", "test-00004.jpg"),
        ("split names unknown photo", "x.jpg"),
    ]


def test_damaged_parquet_is_refused(tmp_path: Path, images: Path) -> None:
    source = parquet_files(tmp_path / "hub")
    path = source / "data" / "test-00000-of-00001.parquet"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PAR1" + bytes(100) + b"PAR1"):
        path.write_bytes(content)
        with pytest.raises(CaptionlabError, match=r"test-00000-of-00001\.parquet is truncated or damaged"):
            parquet(source, images)
    for table, fault in (
        (pa.table({"caption_0": ["x"]}), "no column image"),
        (pa.table({"image": ["x.jpg"], "caption_0": ["x"]}), "no column image"),
        (pa.table({"image": [{"bytes": b"", "path": ""}], "label": ["x"]}), "no column of captions"),
    ):
        pq.write_table(table, path)
        with pytest.raises(CaptionlabError, match=fault):
            parquet(source, images)
    for left in source.glob("data/*"):
        left.unlink()
    with pytest.raises(CaptionlabError, match=r"has no \*.parquet files"):
        parquet(source, images)


@pytest.mark.parametrize(
    ("image", "caption", "fault"),
    [
        ({"bytes": "text", "path": "a"}, pa.array(["x"]), "no column image"),
        ({"bytes": b"", "path": 7}, pa.array(["x"]), "no column image"),
        ({"bytes": b"", "path": "a"}, pa.array([1]), "no column of captions"),
        ({"bytes": b"", "path": "a"}, pa.array([[1]]), "no column of captions"),
        (
            {"bytes": b"", "path": "a"},
            pa.Array.from_buffers(
                pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"\xff")]
            ),
            "is truncated or damaged",
        ),
    ],
)
def test_columns_of_other_types_are_refused(
    tmp_path: Path, images: Path, image: dict[str, Any], caption: Any, fault: str
) -> None:
    table = pa.table({"image": [image], "caption_0": caption})
    with pytest.raises(CaptionlabError, match=fault):
        parquet(parquet_files(tmp_path / "hub", **{"test-00000-of-00001": table}), images)
