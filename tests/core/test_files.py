"""Atomic writes under SIGKILL and on a full disk; reading of JSON, JSON lines and YAML."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from captionlab.core.files import (
    atomic_file,
    atomic_folder,
    digest_of,
    iter_jsonl,
    read_json,
    read_jsonl,
    read_yaml,
    sha256_of,
    write_json,
    write_jsonl,
    write_text,
)
from captionlab.errors import CaptionlabError

KILL_IN_FILE = """
import os, signal
from pathlib import Path
from captionlab.core.files import atomic_file
with atomic_file(Path("out.txt")) as temporary:
    with temporary.open("w") as out:
        out.write("half of the new")
        out.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""
KILL_IN_FOLDER = """
import os, signal
from pathlib import Path
from captionlab.core.files import atomic_folder
with atomic_folder(Path("out")) as temporary:
    (temporary / "a.txt").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
KILL_WHILE_THE_OLD_FOLDER_GOES = """
import os, shutil, signal
from pathlib import Path
import captionlab.core.files as files
def rmtree(path, **options):
    if Path(path).exists():
        (Path(path) / "a.txt").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
files.shutil.rmtree = rmtree
with files.atomic_folder(Path("out")) as temporary:
    (temporary / "a.txt").write_text("new")
    (temporary / "b.txt").write_text("new")
"""


def run_and_be_killed(script: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, timeout=30)
    assert done.returncode == -9, done.stderr.decode()


def test_a_kill_during_a_write_keeps_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("old")
    run_and_be_killed(KILL_IN_FILE, tmp_path)
    assert (tmp_path / "out.txt").read_text() == "old"


def test_a_kill_during_a_write_keeps_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_text("old")
    (tmp_path / "out/b.txt").write_text("old")
    run_and_be_killed(KILL_IN_FOLDER, tmp_path)
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"a.txt": "old", "b.txt": "old"}
    with atomic_folder(tmp_path / "out") as temporary:
        assert list(temporary.iterdir()) == []  # nothing is left of the killed run
        (temporary / "c.txt").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "c.txt"]


def test_a_kill_while_the_old_folder_is_removed_leaves_a_complete_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "out" / name).write_text("old")
    run_and_be_killed(KILL_WHILE_THE_OLD_FOLDER_GOES, tmp_path)
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"a.txt": "new", "b.txt": "new"}
    with atomic_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_old_folder_stays_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "out/a.txt", "old")
    rename = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == ".out.partial":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(CaptionlabError, match="Input/output error"), atomic_folder(tmp_path / "out") as temporary:
            (temporary / "a.txt").write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a.txt"]
    assert (tmp_path / "out/a.txt").read_text() == "old"
    (tmp_path / "out").rename(tmp_path / ".out.former.partial")  # as a kill between the two renames leaves it
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out"):
        raise KeyboardInterrupt
    assert (tmp_path / "out/a.txt").read_text() == "old"
    write_text(tmp_path / ".out.deleted.partial/b.txt", "a part")  # as a kill while the old one is deleted leaves it
    shutil.rmtree(tmp_path / "out")  # as DVC does before a stage
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_keeps_only_the_old_content(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    write_text(tmp_path / "folder/file", "old")

    def file() -> None:
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("new")
            raise RuntimeError("ours")

    def folder() -> None:
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "file").write_text("new")
            raise RuntimeError("ours")

    for write in (file, folder):
        with pytest.raises(RuntimeError, match="ours"):
            write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder/file").read_text() == "old"


def test_a_full_disk_is_one_error_and_leaves_no_partial_file(small_disk: Path) -> None:
    write_text(small_disk / "kept.json", "old")
    large = "x" * 200_000
    message = r"^cannot write .*: No space left on device; free space or choose a writable folder$"
    with pytest.raises(CaptionlabError, match=message):
        write_json(small_disk / "kept.json", large)
    with pytest.raises(CaptionlabError, match=message):
        write_jsonl(small_disk / "kept.json", [large])
    with pytest.raises(CaptionlabError, match=message), atomic_folder(small_disk / "folder") as temporary:
        (temporary / "large").write_text(large)
    assert [path.name for path in small_disk.iterdir()] == ["kept.json"]
    assert (small_disk / "kept.json").read_text() == "old"


def test_a_file_size_limit_is_the_same_error(tmp_path: Path) -> None:
    """Replaces the test of a full disk where no small disk can be mounted."""
    script = (
        "import resource, signal; from pathlib import Path; from captionlab.core.files import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_text(Path('out.txt'), 'x' * 100_000)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert done.stderr.splitlines()[-1].startswith(
        "captionlab.errors.CaptionlabError: cannot write out.txt: File too large"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_linked_folder_is_replaced_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "out") as temporary:
            (temporary / "a.txt").write_text(content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk/a.txt").read_text() == "second"


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (atomic_file, atomic_folder):
        with pytest.raises(CaptionlabError, match="would be replaced as a whole; name a file or folder in it"):
            write(Path(name)).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_a_folder_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(CaptionlabError, match="file is a file, not a folder; move it away"),
        atomic_folder(tmp_path / "file"),
    ):
        pass
    with pytest.raises(CaptionlabError, match=r"cannot write .*file/out\.json: .*choose a writable folder"):
        write_json(tmp_path / "file/out.json", 1)
    with (
        pytest.raises(CaptionlabError, match=r"cannot write .*file/out: .*choose a writable folder"),
        atomic_folder(tmp_path / "file/out"),
    ):
        pass


def test_jsonl_keeps_every_character(tmp_path: Path) -> None:
    rows: list[Any] = [{"caption": "a\u2028b\u2029c\x85d\x0be\x0cf\r\ng\x1c \U0001f415"}, {}, [], "x", None]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == len(rows)
    write_jsonl(tmp_path / "rows.jsonl", [])
    assert read_jsonl(tmp_path / "rows.jsonl") == []


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for read in (read_json, read_jsonl):
        with pytest.raises(CaptionlabError, match=r"rows\.jsonl does not exist; run the stage that writes it"):
            read(path)
    path.write_bytes(b'{"a": 1}\n{"a": \n')
    with pytest.raises(CaptionlabError, match=r"rows\.jsonl, line 2 is not valid JSON"):
        read_jsonl(path)
    for broken in (b"\xff", b"", b"[" * 100_000):
        path.write_bytes(broken)
        with pytest.raises(CaptionlabError, match=r"rows\.jsonl is not valid JSON"):
            read_json(path)
    path.write_bytes(b"\xff")
    with pytest.raises(CaptionlabError, match=r"rows\.jsonl is not UTF-8"):
        read_jsonl(path)


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "b": 1,\n  "a": "é"\n}\n'.encode()
    assert read_json(tmp_path / "a.json") == {"b": 1, "a": "é"}
    assert sha256_of(tmp_path / "a.json") == "8fab0e3e670033e07931cc269bba6dac7bef4b3638e5bc328c898c2c9e85a359"
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_leftovers_of_killed_processes_are_removed_by_the_next_write(tmp_path: Path) -> None:
    for _ in range(2):  # each under a number of its own
        run_and_be_killed(KILL_IN_FILE, tmp_path)
    orphans = [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]
    assert orphans
    another = tmp_path / ".out.txt.another-machine-1.partial"
    own = orphans[0].with_name(orphans[0].name.rpartition("-")[0] + f"-{os.getpid()}.partial")
    for path in (another, own.with_name(f".other{own.name}")):
        path.write_text("being written")
    write_text(tmp_path / "out.txt", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([another.name, f".other{own.name}", "out.txt"])


def test_yaml_with_a_list_for_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: {b: 1, &c: [[d]]}\n")
    with pytest.raises(CaptionlabError, match=r"params\.yaml is not valid YAML: unhashable"):
        read_yaml(path, "run it elsewhere")


@pytest.mark.parametrize("text", ["[" * 5000 + "]" * 5000, "{" * 5000, "a: " + "b" * 300_000, "a: " + "9" * 5000])
def test_slow_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(CaptionlabError, match=r"params\.yaml"):
        read_yaml(path, "run it elsewhere")


def test_a_number_too_long_for_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("9" * 5000 + "\n")
    with pytest.raises(CaptionlabError, match=r"rows\.jsonl is not valid JSON"):
        read_json(path)
    with pytest.raises(CaptionlabError, match=r"rows\.jsonl, line 1 is not valid JSON"):
        read_jsonl(path)
    for read in (read_json, read_jsonl):
        with pytest.raises(CaptionlabError, match="cannot read"):
            read(tmp_path)


def test_an_error_is_one_short_line_without_control_characters() -> None:
    said = str(CaptionlabError("photo \x1b[2J\u202e\n\udc80.jpg " + "x" * 1_000_000 + " is gone; mend é"))
    assert said.startswith(r"photo \x1b[2J\u202e\n\udc80.jpg xxx")
    assert said.endswith("xxx is gone; mend é")
    assert len(said) < 1100


def test_lines_are_read_lazily(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n"\u2028"\nbroken\n', encoding="utf-8")
    rows = iter_jsonl(path)
    assert [next(rows), next(rows)] == [{"a": 1}, "\u2028"]
    with pytest.raises(CaptionlabError, match=r"rows\.jsonl, line 3 is not valid JSON"):
        next(rows)
