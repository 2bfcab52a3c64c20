"""Lists in JSON files, read entry by entry."""

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionlab.datasets.json_lists import iter_list, iter_objects
from captionlab.errors import CaptionlabError

texts = st.text(max_size=5)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
TEXT = '{"info": {"a": [1, 2]}, "images": [1.5e-3, -20, {"b": [true, null]}, "]}"], "n": 12}'
ENTRIES = [0.0015, -20, {"b": [True, None]}, "]}"]


def read(text: str, piece: int = 1 << 20) -> list[Any]:
    return list(iter_list(io.StringIO(text), "a.json", "images", piece))


@given(
    st.dictionaries(texts, values, max_size=3),
    st.lists(values, max_size=4),
    st.integers(1, 9),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_entries_are_those_of_the_whole_file(
    others: dict[str, Any], images: list[Any], piece: int, indent: int | None, first: bool
) -> None:
    others.pop("images", None)
    written = {"images": images, **others} if first else {**others, "images": images}
    assert read(json.dumps(written, indent=indent, ensure_ascii=first), piece) == images


@pytest.mark.parametrize("piece", range(1, 30))
def test_no_value_is_cut_where_a_piece_ends(piece: int) -> None:
    assert read(TEXT, piece) == ENTRIES


@pytest.mark.parametrize("text", ["[1, 2]", '"images"', "{}", '{"images": {"a": 1}}', '{"images": []}', " 1 "])
def test_json_without_the_list_has_no_entries(text: str) -> None:
    assert read(text) == []


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("end", range(len(TEXT)))
def test_a_truncated_file_is_not_valid(end: int, piece: int) -> None:
    with pytest.raises(CaptionlabError, match=r"^a\.json is not valid JSON: .*; get the file again$"):
        read(TEXT[:end], piece)


@pytest.mark.parametrize("piece", [1, 1 << 20])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [1, x]}', "Expecting value at character 15"),
        ('{"images": [1,]}', "Expecting value at character 14"),
        ('{"images": [1],}', "Expecting a name in quotes at character 15"),
        ('{"images": [1 2]}', r"Expecting ',' at character 14"),
        ('{"images": [01]}', "Expecting ',' at character 13"),
        ('{"images": [1.]}', "Expecting ',' at character 13"),
        ('{"images" [1]}', "Expecting ':' at character 10"),
        ("{images: [1]}", "Expecting a name in quotes at character 1"),
        ('{"images": [1]} {}', "Extra data at character 16"),
        ('{"images": ["a\nb"]}', "Invalid control character at character 14"),
        ('{"images": [' + "[" * 100_000, "maximum recursion depth"),
        ('{"images": [' + "9" * 5_000 + "]}", "Exceeds the limit"),
    ],
)
def test_invalid_json_is_an_error(text: str, message: str, piece: int) -> None:
    if len(text) > 1_000 and piece == 1:
        piece = 1_000
    with pytest.raises(CaptionlabError, match=rf"^a\.json is not valid JSON: {message}"):
        read(text, piece)


def test_a_number_of_many_digits_may_go_on_in_the_next_piece() -> None:
    number = "9" * 4_400 + ".5"
    text = '{"images": [' + number + "]}"
    assert read(text, 4_380) == [float(number)]


def test_a_fault_is_found_without_reading_on() -> None:
    stream = io.StringIO('{"images": [1, x' + " " * 100_000 + "]}")
    with pytest.raises(CaptionlabError, match="Expecting value at character 15"):
        list(iter_list(stream, "a.json", "images", 100))
    assert stream.tell() < 1_000


@pytest.mark.parametrize("text", ['{"images": [1], "images": [2]}', '{"n": {"images": 1, "images": 2}}'])
def test_a_repeated_key_is_an_error(text: str) -> None:
    with pytest.raises(CaptionlabError, match=r"^a\.json: 'images' occurs more than once; keep one$"):
        read(text)


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    """Nor do the words and numbers that are not used."""
    image = {"sentences": [{"tokens": ["dog"] * 20, "raw": f"Dog {i} ."} for i in range(50)]}
    path = tmp_path / "dataset_mine.json"
    path.write_text(json.dumps({"images": [image] * 1_000}))
    tracemalloc.start()
    count = sum(len(image["sentences"]) for image in iter_objects(path, "images"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 50_000
    assert peak < path.stat().st_size / 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": []}', r"a\.json has no list of images; get the file again"),
        (b'{"images": [{}, 1]}', r"a\.json has no list of images; get the file again"),
        (b'{"images": [{"a": "\xff"}]}', r"a\.json is not UTF-8 text \(.*\); save it as UTF-8"),
    ],
)
def test_a_file_without_such_a_list_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CaptionlabError, match=message):
        list(iter_objects(tmp_path / "a.json", "images"))


def test_utf_16_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"images": [{"raw": "犬", "tokens": ["犬"]}]}', encoding="utf-16")
    assert list(iter_objects(tmp_path / "a.json", "images")) == [{"raw": "犬"}]
