"""Generated files of Flickr8k's human judgments, with valid and broken lines."""

from pathlib import Path

import pytest

from captionlab.core.results.judgments import JudgedCaption
from captionlab.datasets.judgments import read_judgments

CAPTIONS = {"a.jpg#0": "A dog .", "a.jpg#1": "Cafe\u0301 .", "b.jpg#0": "A cat ."}
REFERENCES = {"a.jpg": ["A dog .", "Cafe\u0301 ."], "b.jpg": ["A cat ."]}


def write(folder: Path, *, experts: bytes | None = None, crowd: bytes | None = None) -> Path:
    for name, content in (("ExpertAnnotations.txt", experts), ("CrowdFlowerAnnotations.txt", crowd)):
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def test_both_files_are_read(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        experts=b"a.jpg\tb.jpg#0\t1\t2\t4\n",
        crowd=b"a.jpg\ta.jpg#1\t0.25\t1\t3\r\nb.jpg\ta.jpg#0\t0\t0\t3\r\n",
    )
    judged, problems = read_judgments(source, CAPTIONS, REFERENCES)
    assert problems == []
    assert judged == [
        JudgedCaption(judges="experts", image="a.jpg", caption="A cat .", marks=(1, 2, 4), is_reference=False),
        JudgedCaption(judges="crowd", image="a.jpg", caption="Caf\u00e9 .", marks=(0.25,), is_reference=True),
        JudgedCaption(judges="crowd", image="b.jpg", caption="A dog .", marks=(0,), is_reference=False),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"\xff" * 16_000, b"a.jpg\tb.jpg#0\t1\t2", b"a.jpg\tb.jpg#0\t1\t2\t5", b"a.jpg\tb.jpg#0\t1\t2\tx",
        b"a.jpg\tb.jpg#0\t1\t2\t" + b"9" * 400, b"z.jpg\tb.jpg#0\t1\t2\t3", b"a.jpg\tz.jpg#0\t1\t2\t3", b"no tab",
    ],
)  # fmt: skip
def test_broken_lines_of_the_experts_are_left_out_and_counted(tmp_path: Path, line: bytes) -> None:
    sound = b"a.jpg\tb.jpg#0\t1\t2\t4\n"
    judged, problems = read_judgments(write(tmp_path, experts=sound + line + b"\n" + sound), CAPTIONS, REFERENCES)
    assert len(judged) == 2
    assert [(problem.item, problem.detail) for problem in problems] == [
        ("ExpertAnnotations.txt", "1 lines are left out")
    ]


@pytest.mark.parametrize("line", [b"a.jpg\tb.jpg#0\t0\t0\t0", b"a.jpg\tb.jpg#0\t0\t-1\t2", b"a.jpg\tb.jpg#0\t1\t1"])
def test_broken_lines_of_the_crowd_are_left_out_and_counted(tmp_path: Path, line: bytes) -> None:
    judged, problems = read_judgments(write(tmp_path, crowd=line), CAPTIONS, REFERENCES)
    assert judged == []
    assert len(problems) == 1


def test_judgments_are_optional(tmp_path: Path) -> None:
    assert read_judgments(tmp_path, CAPTIONS, REFERENCES) == ([], [])
