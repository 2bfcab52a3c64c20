"""Captions files in every dialect."""

import csv
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionlab.datasets.captions_file import CaptionRow, read_captions_file
from captionlab.errors import CaptionlabError
from photo_sets import kinds


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "captions.txt"


def read(file: Path, text: str) -> list[CaptionRow]:
    file.write_text(text, encoding="utf-8")
    rows, problems = read_captions_file(file)
    assert problems == []
    return rows


@pytest.mark.parametrize(
    ("header", "row", "caption"),
    [
        ("image,caption", 'a.jpg,"A ""big"" dog , running"', 'A "big" dog , running'),
        ("image,caption", "a.jpg,A dog , running", "A dog , running"),
        ("image,caption", 'a.jpg,A "big" dog', 'A "big" dog'),
        ("image,caption", 'a.jpg, "A dog"', "A dog"),
        ("image,caption", 'a.jpg,"A dog", "Rex", running', 'A dog, "Rex", running'),
        ("\ufeffImage, Caption", 'a.jpg,"an open quote', '"an open quote'),
        ("image,caption", "a.jpg,line\u2028break\r", "line\u2028break"),
        ('"image","caption"', '"a.jpg","A dog"', "A dog"),
        ("image,caption,id", "a.jpg,A dog,7", "A dog"),
        ("image,caption,id", "a.jpg,A dog, running,7", "A dog, running"),
        ("id,caption,image", "7,A dog, running,a.jpg", "A dog, running"),
        ("caption,image", "A dog, running,a.jpg", "A dog, running"),
        (",image,caption", '0,a.jpg,"A dog, running"', "A dog, running"),
        (",image,caption", "0,a.jpg,A dog, running", "A dog, running"),
        ("image,comment_number,comment", "a.jpg,0,A dog", "A dog"),
        ("image\tcaption", 'a.jpg\t"A dog", running', '"A dog", running'),
        ("image\tcaption", 'a.jpg\t"A ball with ""RED"" on it"', 'A ball with "RED" on it'),
        ('"image"\t"caption"', '"a.jpg"\t"A dog"', "A dog"),
        ("image;caption", 'a.jpg;"A dog; running"', "A dog; running"),
        ("image;caption", "a.jpg;A dog, running", "A dog, running"),
        ("image_name| comment_number| comment", "a.jpg| 0| A dog", "A dog"),
        ("image_name| comment_number| comment", "a.jpg| 4   A dog runs .", "A dog runs ."),
        ("Image Name,Caption", "a.jpg,A dog", "A dog"),
        ("file_name,text", "a.jpg,A dog", "A dog"),
        ("image,caption", 'a.jpg,"A dog\nruns, fast"', "A dog runs, fast"),
        ("image,caption,id", 'a.jpg,"A ""dog""\nruns",7', 'A "dog" runs'),
        ("caption,image", '"A dog\nruns",a.jpg', "A dog runs"),
        ("sep=;\nimage;caption", "a.jpg;A dog, running", "A dog, running"),
        ("\n \nimage,caption", "a.jpg,A dog", "A dog"),
        ("sep=;\n\nimage;caption", "a.jpg;A dog", "A dog"),
        ('"SEP=;"\nimage;caption', "a.jpg;A dog, running", "A dog, running"),
        ("image,caption_1,caption_2", "a.jpg,,A dog", "A dog"),
        ("image,captions", "a.jpg,A dog", "A dog"),
        ("image,captions", """a.jpg,"['A dog']\"""", "A dog"),
        ("image,captions", 'a.jpg,"[""A dog""]"', "A dog"),
        ("image,captions", """a.jpg,"['A dog', None]\"""", "A dog"),
        ("image,captions", 'a.jpg,"[null, ""A \\u0022dog\\u0022""]"', 'A "dog"'),
        ("filepath\ttitle", "a.jpg\tA dog", "A dog"),
        ("file_path,caption", "a.jpg,A dog", "A dog"),
        ("image,caption", "a.jpg,[nan]", ""),
        ("image,caption", "a.jpg,['a', 2]", "['a', 2]"),
        ("image,caption", "a.jpg,[a dog]", "[a dog]"),
        (", ,\nimage,caption", "a.jpg,A dog\n,\n ,", "A dog"),
        ("image,caption", r'a.jpg,"A \"red\" ball, 0"', 'A "red" ball, 0'),
        ("image,caption", r'a.jpg,"A \"red\" ball"', 'A "red" ball'),
        ("image,caption", r'a.jpg,"A ball \""', 'A ball "'),
        ("image,caption", r'a.jpg,"A \", x"', 'A ", x'),
        ("image,caption", r'a.jpg,"\\ and \"x\""', r'\ and "x"'),
        ("image,caption", 'a.jpg,"A \\"red\\" ball\nrolls"', 'A "red" ball rolls'),
        ("image,caption", r'a.jpg,A \"red\" ball', r'A \"red\" ball'),
        ("image,caption", r'a.jpg,"C:\photos\"', "C:\\photos\\"),
        ("image,caption", r'a.jpg,"""A \"" ball"', r'"A \" ball'),
    ],
)  # fmt: skip
def test_every_dialect_is_read(file: Path, header: str, row: str, caption: str) -> None:
    assert read(file, f"{header}\n{row}\n") == [CaptionRow("a.jpg", caption)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@given(captions=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")).map(str.strip), min_size=1))
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, separator: str, captions: list[str]) -> None:
    file = tmp_path_factory.mktemp("written") / "captions.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, delimiter=separator)
        writer.writerow(["id", "image", "caption"])
        writer.writerows([number, f"{number}.jpg", caption] for number, caption in enumerate(captions))
    one_line = [" ".join(caption.split("\n")).strip() for caption in captions]
    assert read_captions_file(file)[0] == [
        CaptionRow(f"{number}.jpg", caption) for number, caption in enumerate(one_line)
    ]


def test_captions_in_several_columns_are_read_in_their_order(file: Path) -> None:
    text = "caption 2,image,caption 10,caption 1\nA cat,a.jpg,A bird,A dog\n,b.jpg,,\n"
    expected = [
        CaptionRow("a.jpg", "A dog"),
        CaptionRow("a.jpg", "A cat"),
        CaptionRow("a.jpg", "A bird"),
        CaptionRow("b.jpg", ""),
    ]
    assert read(file, text) == expected
    assert read(file, "image,caption,caption_2\na.jpg,A dog,A cat\n") == expected[:2]
    assert read(file, "title,image,caption_1,caption_2\nT,a.jpg,A dog,A cat\n") == expected[:2]
    with pytest.raises(CaptionlabError, match=r"line 2 has 4 fields, the header 3; put captions with ',' in quotes"):
        read(file, "image,caption_1,caption_2\na.jpg,A dog, big,A cat\n")


@pytest.mark.parametrize(
    "header",
    ["caption,caption.1", "caption,caption", "caption[0],caption[1]", "caption/0,caption/1", "Caption,caption_1"],
)
def test_repeated_columns_are_captions_of_one_photo(file: Path, header: str) -> None:
    """As pandas names them, and as tools name the items of a list."""
    rows = [CaptionRow("a.jpg", "A dog"), CaptionRow("a.jpg", "A cat")]
    assert read(file, f"image,{header}\na.jpg,A dog,A cat\n") == rows
    assert read(file.with_suffix(".jsonl"), '{"image": "a.jpg", "caption.1": "A cat", "caption": "A dog"}\n') == rows


def test_an_invalid_row_does_not_affect_captions_of_several_lines(file: Path) -> None:
    text = 'image,caption,id\na.jpg,"A dog\nruns",1\nb.jpg,a 5" plate, and more,2\nc.jpg,"A\ncat",3\nd.jpg,"open,4\n'
    expected = [("a.jpg", "A dog runs"), ("b.jpg", 'a 5" plate, and more'), ("c.jpg", "A cat"), ("d.jpg", '"open')]
    assert read(file, text) == [CaptionRow(*each) for each in expected]


def test_an_open_quote_does_not_take_in_the_next_rows(file: Path) -> None:
    """Also where a later caption has a quote."""
    text = 'image,caption\na.jpg,"A dog\nb.jpg,a cat\nc.jpg,a board of 5"\nd.jpg,a bird\n'
    expected = [("a.jpg", '"A dog'), ("b.jpg", "a cat"), ("c.jpg", 'a board of 5"'), ("d.jpg", "a bird")]
    assert read(file, text) == [CaptionRow(*each) for each in expected]


def test_lists_that_pandas_writes_of_arrays_are_read(file: Path) -> None:
    captions = [f"A dog {number} ." for number in range(9)] + ["A dog's ball"]  # NumPy breaks the line
    pandas.DataFrame({"image": ["a.jpg"], "captions": [np.array(captions, dtype=object)]}).to_csv(file, index=False)
    assert read_captions_file(file)[0] == [CaptionRow("a.jpg", caption) for caption in captions]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_is_read(file: Path, encoding: str) -> None:
    file.write_bytes("image\tcaption\r\na.jpg\tUn café\r\n".encode(encoding))
    assert read_captions_file(file)[0] == [CaptionRow("a.jpg", "Un café")]


def test_json_lines_are_read(tmp_path: Path) -> None:
    text = '{"file_name": "a.jpg", "text": "A dog"}\n\n{"captions": 1, "caption": ["A cat", "B"], "image": "b.jpg"}\n'
    assert read(tmp_path / "metadata.jsonl", text) == [
        CaptionRow("a.jpg", "A dog"),
        CaptionRow("b.jpg", "A cat"),
        CaptionRow("b.jpg", "B"),
    ]
    text = '{"file_name": "a.jpg", "caption_2": "A cat", "caption_1": "A dog", "caption_3": null, "split": null}\n'
    assert read(tmp_path / "METADATA.JSONL", text) == [CaptionRow("a.jpg", "A dog"), CaptionRow("a.jpg", "A cat")]


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"file_name": "a.jpg"}',
        '{"file_name": "a.jpg", "text": 3}',
        "{",
        '{"file_name": "a.jpg", "text": "\\ud800"}',
        '{"file_name": "a.jpg", "text": [[]]}',
    ],
)
def test_json_lines_without_photo_or_caption_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(CaptionlabError, match=r"metadata\.jsonl, line 2 (has no file_name and text|is not valid JSON)"):
        read(tmp_path / "metadata.jsonl", f'{{"file_name": "a.jpg", "text": "A dog"}}\n{line}\n')


def test_a_token_file_needs_no_header(file: Path) -> None:
    """The format of Flickr8k and Flickr30k."""
    text = "a.jpg#0\tA dog , running .\na.jpg#1\tA dog .\nb.jpg#0\tA dog .\n"
    assert read(file, text) == [
        CaptionRow("a.jpg", "A dog , running ."),
        CaptionRow("a.jpg", "A dog ."),
        CaptionRow("b.jpg", "A dog ."),
    ]


@pytest.mark.parametrize("name", ["split", "Data_Split", "subset", "partition", "set"])
def test_a_split_column_is_read(file: Path, name: str) -> None:
    assert read(file, f"image,{name},caption\na.jpg,train,A dog\nb.jpg,,A cat\n") == [
        CaptionRow("a.jpg", "A dog", "train"),
        CaptionRow("b.jpg", "A cat"),
    ]


def test_a_repeated_line_counts_once_and_a_short_line_has_no_caption(file: Path) -> None:
    file.write_text("image,caption\na.jpg,A dog\nb.jpg\n\na.jpg,A dog\n")
    rows, problems = read_captions_file(file)
    assert rows == [CaptionRow("a.jpg", "A dog"), CaptionRow("b.jpg", "")]
    assert kinds(problems) == [("duplicate caption", "a.jpg")]
    assert problems[0].detail == "line 5; it counts once"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"image,caption\n", "no captions below"),
        (b"0.jpg,A dog\n", "the first line is '0.jpg,A dog'; it must name the columns"),
        (b"image,label\n0.jpg,A dog\n", "must name the columns"),
        ("image,caption\n0.jpg,caf\xe9\n".encode("latin-1"), "not UTF-8"),
        (b"a.jpg#0\tA dog\nb.jpg\tA cat\n", r"captions\.txt, line 2 is not photo#number"),
    ],
)
def test_other_files_are_refused_in_one_line(file: Path, content: bytes, fault: str) -> None:
    file.write_bytes(content)
    with pytest.raises(CaptionlabError, match=fault) as caught:
        read_captions_file(file)
    assert "\n" not in str(caught.value)


def test_a_captions_file_that_cannot_be_read_is_named(file: Path) -> None:
    file.symlink_to("/proc/self/mem")
    with pytest.raises(CaptionlabError, match=r"^cannot read .*captions\.txt: Input/output error"):
        read_captions_file(file)
