"""captionlab caption and its output file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from builders import digests, draw_photos
from captionlab.commands.caption_file import CaptionFile
from captionlab.core.files import read_jsonl, through_link
from captionlab.errors import CaptionlabError
from captionlab.inference import captioner

if TYPE_CHECKING:
    from conftest import Run

SOURCE = {"model": "attention.tiny@key", "decoding": "greedy, at most 6 words"}


@pytest.fixture
def folder(released: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with two photos; ``released`` is the released captioner."""
    monkeypatch.setattr(captioner, "RELEASED", released)
    monkeypatch.chdir(tmp_path)
    draw_photos(tmp_path / "photos", 2)
    return tmp_path


# The command


def test_photos_in_formats_that_are_not_read_are_counted(folder: Path, run: "Run") -> None:
    for name in ("a.CR2", "more/b.cr2", "c.dng", "notes.txt", ".hidden.cr2", "__MACOSX/d.jpg", ".git/e.jpg"):
        (folder / "photos" / name).parent.mkdir(exist_ok=True)
        (folder / "photos" / name).write_bytes(b"")
    code, out, err = run("caption", "photos")
    assert code == 0
    assert len(out.splitlines()) == 2
    assert err == "captionlab: skipped 3 files of formats that are not read (.cr2: 2, .dng: 1)\n"


def test_linked_folders_are_captioned_once(folder: Path, run: "Run") -> None:
    draw_photos(folder / "disk", 1)
    (folder / "photos/more").symlink_to(folder / "disk")
    (folder / "photos/again").symlink_to(folder / "photos")
    code, out, err = run("caption", "photos")
    assert (code, err) == (0, "")
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names == ["photos/000.jpg", "photos/001.jpg", "photos/more/000.jpg"]


def test_a_name_that_no_file_can_have_does_not_stop_the_others(folder: Path, run: "Run") -> None:
    code, out, err = run("caption", "photos/000.jpg", "a" * 300)
    assert code == 1
    assert out.startswith("photos/000.jpg\t")
    assert err.startswith("captionlab: cannot read the photo aaa")
    assert err.count("\n") == 1


def test_a_photo_from_standard_input_is_not_written_to_a_file(folder: Path, run: "Run") -> None:
    """All such photos would have one name."""
    code, out, err = run("caption", "-", "--out", "all.jsonl")
    assert (code, out) == (2, "")
    assert "a photo from standard input has no name" in err
    assert not (folder / "all.jsonl").exists()


def test_a_folder_that_cannot_be_read_is_named(folder: Path, run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "photos/closed").mkdir(mode=0)
    if os.access(folder / "photos/closed", os.R_OK):
        pytest.skip("this user may read everything")
    code, out, err = run("caption", "photos")
    assert (code, len(out.splitlines())) == (1, 2)
    assert err == "captionlab: cannot read photos/closed: Permission denied\n"


def test_a_file_of_captions_belongs_to_one_model_and_decoding(
    folder: Path, run: "Run", world: Any, tiny: Any, released: Path
) -> None:
    assert run("caption", "photos", "--out", "all.jsonl") == (0, "", "")
    rows = read_jsonl(folder / "all.jsonl")
    assert [(row["image"], row["model"]) for row in rows] == [
        ("photos/000.jpg", "attention.tiny@key"), ("photos/001.jpg", "attention.tiny@key")
    ]  # fmt: skip
    assert {row["decoding"] for row in rows} == {"beam 3, length penalty 0.5, at most 6 words"}
    before = (folder / "all.jsonl").read_bytes()
    draw_photos(folder / "photos", 3)
    code, out, err = run("caption", "photos", "--out", "all.jsonl", "--beam", "1")
    assert (code, out) == (1, "")
    assert "has captions of model attention.tiny@key, decoding beam 3, length penalty 0.5, at most 6 words" in err
    assert err.endswith("this run has model attention.tiny@key, decoding greedy, at most 6 words; name another file\n")
    assert (folder / "all.jsonl").read_bytes() == before
    assert run("caption", "photos", "--out", "all.jsonl") == (0, "", "")
    assert (folder / "all.jsonl").read_bytes().startswith(before)
    assert len(read_jsonl(folder / "all.jsonl")) == 3


def test_every_part_of_the_decoding_can_be_replaced(folder: Path, run: "Run") -> None:
    options = ["--beam", "2", "--length-penalty", "0", "--min-words", "2", "--max-words", "3", "--no-repeat-ngram", "1"]
    assert run("caption", "photos", "--out", "all.jsonl", *options) == (0, "", "")
    rows = read_jsonl(folder / "all.jsonl")
    expected = "beam 2, 2 words or more, no 1-gram twice, length penalty 0, at most 3 words"
    assert {row["decoding"] for row in rows} == {expected}
    assert all(2 <= len(row["caption"].split()) <= 3 for row in rows)


def test_options_that_contradict_are_one_line(folder: Path, run: "Run") -> None:
    code, out, err = run("caption", "photos", "--min-words", "40")
    assert (code, out, err) == (1, "", "captionlab: min_words must be at most max_words, 6, not 40\n")
    code, out, err = run("caption", "photos/000.jpg", "--attention", "map.png", "--out", "all.jsonl")
    assert (code, out) == (2, "")
    assert "cannot be used with --out" in err


@pytest.mark.parametrize("name", ["ensemble.safetensors", "retrieval.safetensors"])
def test_a_checkpoint_may_be_called_like_a_system(folder: Path, run: "Run", released: Path, name: str) -> None:
    shutil.copy(released, folder / name)
    assert run("caption", "photos/000.jpg", "--model", name) == run(
        "caption", "photos/000.jpg", "--model", str(released)
    )


def test_caption_lines_can_be_scored(folder: Path, run: "Run") -> None:
    run("caption", "photos", "--out", "all.jsonl")
    said = {Path(row["image"]).name: [row["caption"]] for row in read_jsonl(folder / "all.jsonl")}
    Path("references.json").write_text(json.dumps(said))
    code, out, _ = run("score", "--references", "references.json", "--hypotheses", "all.jsonl", "--no-meteor", "--json")
    assert (code, json.loads(out)["bleu_1"]) == (0, pytest.approx(1))


def test_a_folder_stands_for_its_checkpoint(folder: Path, run: "Run", released: Path) -> None:
    (folder / "trained").mkdir()
    code, out, err = run("caption", "photos/000.jpg", "--model", "trained")
    assert (code, out) == (1, "")
    assert err == (
        "captionlab: the folder trained has no checkpoint.safetensors; name a checkpoint or a trained system\n"
    )
    (folder / "trained/checkpoint.safetensors").write_bytes(released.read_bytes())
    assert run("caption", "photos/000.jpg", "--model", "trained") == run("caption", "photos/000.jpg")


def captioned(model: Path, *options: str, encoding: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "captionlab.cli", "caption", "photos", "--model", str(model), *options]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, timeout=120, **streams)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_name_outside_the_output_encoding_is_escaped(folder: Path, released: Path, options: list[str]) -> None:
    name = "photos/日本.jpg"
    (folder / "photos/000.jpg").rename(folder / name)
    done = captioned(released, *options, encoding="cp1252", stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    last, named = done.stdout.decode("cp1252").splitlines()
    if options:
        assert (json.loads(last)["image"], json.loads(named)["image"]) == ("photos/001.jpg", name)
    else:
        assert named.startswith("photos/\\u65e5\\u672c.jpg\t")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(folder: Path, released: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = captioned(released, encoding="utf-8", stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"captionlab: cannot write the output: No space left on device; free space\n"


def test_a_pipe_among_photos_is_named_and_not_waited_for(folder: Path, run: "Run") -> None:
    os.mkfifo(folder / "photos/pipe.jpg")
    code, out, err = run("caption", "photos")
    assert (code, len(out.splitlines())) == (1, 2)
    assert err.startswith("captionlab: cannot read the photo photos/pipe.jpg: photos/pipe.jpg is a device or a pipe")


@pytest.mark.parametrize("option", ["--out", "--attention", "--model"])
@pytest.mark.parametrize("path", ["pipe", "/dev/null"])
def test_a_device_or_a_pipe_is_no_file_to_write_or_load(folder: Path, run: "Run", option: str, path: str) -> None:
    """A device would be replaced by a file or be read without end, a pipe waits for ever."""
    os.mkfifo(folder / "pipe")
    code, out, err = run("caption", "photos/000.jpg", option, path)
    assert (code, err) == (1, f"captionlab: {path} is a device or a pipe, not a file; name a file\n")
    assert out == "" or option == "--attention"
    assert not Path("/dev/null").is_file()


def test_a_link_is_written_through(folder: Path, run: "Run") -> None:
    """A link of the system, such as /dev/stdout, is refused wherever it leads."""
    (folder / "link.jsonl").symlink_to("target.jsonl")
    assert run("caption", "photos", "--out", "link.jsonl") == (0, "", "")
    assert (folder / "link.jsonl").is_symlink()
    assert len(read_jsonl(folder / "target.jsonl")) == 2
    (folder / "link.png").symlink_to("target.png")
    assert run("caption", "photos/000.jpg", "--attention", "link.png")[0] == 0
    assert (folder / "link.png").is_symlink()
    with pytest.raises(CaptionlabError, match=r"^/dev/stdout is a device or a pipe, not a file; name a file$"):
        through_link(Path("/dev/stdout"))


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("photos/000.jpg", "--attention would replace the photo photos/000.jpg; name another file"),
        ("link.png", "--attention would replace the photo {folder}/photos/000.jpg; name another file"),
        ("photos/001.jpg", "--attention would replace photos/001.jpg, which is not a PNG; name another file"),
        ("notes.txt", "--attention would replace notes.txt, which is not a PNG; name another file"),
        ("photos", "cannot read photos: Is a directory; name another file"),
    ],
)
def test_an_attention_map_replaces_no_photo_or_other_file(folder: Path, run: "Run", out: str, words: str) -> None:
    (folder / "notes.txt").write_text("milk")
    (folder / "link.png").symlink_to("photos/000.jpg")
    before = digests(folder)
    said = f"captionlab: {words.format(folder=folder)}\n"
    assert run("caption", "photos/000.jpg", "--attention", out) == (1, "", said)
    assert digests(folder) == before


def test_an_attention_map_replaces_another_one(folder: Path, run: "Run") -> None:
    Path("map.png").touch()  # as mktemp makes it
    assert run("caption", "photos/000.jpg", "--attention", "map.png")[0] == 0
    first = Path("map.png").read_bytes()
    assert run("caption", "photos/001.jpg", "--attention", "map.png")[0] == 0
    assert Path("map.png").read_bytes() != first
    shutil.copy("map.png", "photo.png")
    code, _, err = run("caption", "photo.png", "--attention", "./photo.png")
    assert (code, err) == (1, "captionlab: --attention would replace the photo photo.png; name another file\n")


# The file


def row(image: str, **source: str) -> str:
    return json.dumps({"image": image, "caption": "a dog", **(source or SOURCE)})


def opened(path: Path) -> CaptionFile:
    return CaptionFile(path, ["a.jpg", "b.jpg"], SOURCE)


def test_a_file_with_brackets_in_its_name_gets_all_lines(tmp_path: Path) -> None:
    path = tmp_path / "all[1].jsonl"
    file = opened(path)
    (tmp_path / "all[1].jsonl.rank1").write_text(f"{row('a.jpg')}\n")  # another process's
    (tmp_path / "all1.jsonl.rank0").write_text("another file's\n")
    file.close()
    assert path.read_text() == f"{row('a.jpg')}\n"
    assert sorted(other.name for other in tmp_path.iterdir()) == ["all1.jsonl.rank0", "all[1].jsonl"]


@pytest.mark.parametrize("content", [
    "milk\nbread\n",
    "milk",
    row("a.jpg") + "\nmilk",
    "[]\n",
    '{"caption": "a dog"}\n',
])  # fmt: skip
def test_an_unrelated_output_file_is_not_changed(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(
        CaptionlabError, match=r"notes\.txt, line \d was not written by captionlab caption; name another file"
    ):
        opened(path)
    assert path.read_text() == content


@pytest.mark.parametrize(("source", "shown"), [
    ({"model": "baseline.other@abc", "decoding": SOURCE["decoding"]}, "model baseline.other@abc, decoding greedy"),
    ({"log_prob": "-1"}, "model unknown, decoding unknown"),
])  # fmt: skip
def test_captions_of_another_model_are_refused_in_every_rank_file(tmp_path: Path, source: Any, shown: str) -> None:
    for name in ("all.jsonl", "all.jsonl.rank1"):
        (tmp_path / name).write_text(f"{row('a.jpg', **source)}\n")
        with pytest.raises(CaptionlabError, match=f"{name} has captions of {shown}.*this run has model attention.tiny"):
            opened(tmp_path / "all.jsonl")
        (tmp_path / name).unlink()


@pytest.mark.parametrize("cut", [1, 9, 30])
@pytest.mark.parametrize("complete", [True, False])
def test_an_incomplete_last_line_is_dropped(tmp_path: Path, cut: int, complete: bool) -> None:
    path = tmp_path / "all.jsonl"
    first = f"{row('a.jpg')}\n" if complete else ""
    path.write_text(first + row("b.jpg")[:cut])
    file = opened(path)
    assert list(file.done) == (["a.jpg"] if complete else [])
    file.write({"image": "b.jpg", "caption": "a dog"})
    file.close()
    assert path.read_text() == f"{first}{row('b.jpg')}\n"


def test_a_folder_and_a_full_disk_are_one_line(tmp_path: Path, small_disk: Path) -> None:
    with pytest.raises(CaptionlabError, match=r"cannot read .*: Is a directory; name another file"):
        opened(tmp_path)
    path = small_disk / "all.jsonl"
    file = opened(path)
    for number in range(6):
        file.write({"image": f"{number}.jpg", "caption": "x" * 10_000})
    with pytest.raises(CaptionlabError, match=r"cannot write .*all\.jsonl: No space left on device; free space"):
        file.write({"image": "6.jpg", "caption": "x" * 10_000})
    *complete, incomplete = path.read_bytes().split(b"\n")  # only a part of the last line was written
    assert [json.loads(line)["image"] for line in complete] == [f"{number}.jpg" for number in range(6)]
    assert incomplete
