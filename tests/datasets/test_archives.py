"""Untrusted zips are extracted safely or refused."""

import random
import struct
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from captionlab.datasets import archives
from captionlab.datasets.archives import extract
from captionlab.errors import CaptionlabError
from photo_sets import jpeg, zipped


def everything(member: PurePosixPath) -> str:
    return member.name


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "a/../../evil.jpg", "/evil.jpg", "C:/evil.jpg", "c:evil.jpg", "..\\evil.jpg", "\\\\h\\s\\e"]
)
def test_a_member_outside_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, images: Path, name: str
) -> None:
    archive = zipped(tmp_path / "x.zip", {"good.jpg": b"1", name: b"2"})
    with pytest.raises(CaptionlabError, match="points outside the folder"):
        extract(archive, images, everything)
    assert list(images.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"images", "x.zip"}


def test_a_link_is_refused(tmp_path: Path, images: Path) -> None:
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as opened:
        opened.writestr(link, "/etc/passwd")
    with pytest.raises(CaptionlabError, match="is a link"):
        extract(tmp_path / "x.zip", images, everything)


def test_a_zip_bomb_is_refused(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(tmp_path / "x.zip", {"big.jpg": bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CaptionlabError, match="more than 100 times its size"):
        extract(archive, images, everything)
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1_000_000)
    with pytest.raises(CaptionlabError, match=r"'big.jpg' unpacks to 1,048,576 bytes"):
        extract(archive, images, everything)
    assert list(images.iterdir()) == []


def test_a_member_with_a_false_size_is_limited_to_the_stated_size(tmp_path: Path, images: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a.jpg": bytes(5_000)}, zipfile.ZIP_DEFLATED)
    archive.write_bytes(archive.read_bytes().replace(struct.pack("<I", 5_000), struct.pack("<I", 50)))
    with pytest.raises(CaptionlabError, match="damaged"):
        extract(archive, images, everything)
    assert all(path.stat().st_size <= 50 for path in images.iterdir())


def test_a_repeated_name_is_returned_twice_and_written_once(tmp_path: Path, images: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a/x.jpg": b"first", "b/x.jpg": b"second", "a/": b""})
    assert extract(archive, images, everything) == ["x.jpg", "x.jpg"]
    assert (images / "x.jpg").read_bytes() == b"first"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(seed=st.integers(0, 1 << 32), cut=st.booleans(), method=st.sampled_from([0, 8, 12, 14]))
def test_a_damaged_zip_is_read_correctly_or_refused_in_one_line(
    tmp_path: Path, images: Path, seed: int, cut: bool, method: int
) -> None:
    chance = random.Random(seed)
    path = tmp_path / "fuzz.zip"
    content = bytearray(zipped(path, {"a.jpg": jpeg(1), "b.jpg": jpeg(2)}, method).read_bytes())
    for _ in range(chance.randint(0 if cut else 1, 4)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content[: chance.randrange(len(content))] if cut else content)
    (images / "a.jpg").unlink(missing_ok=True)
    said = ""
    try:
        names = extract(path, images, lambda member: "a.jpg" if member.name == "a.jpg" else None)
    except CaptionlabError as error:
        said = str(error)
    assert "\n" not in said
    if not said and names:
        assert (images / "a.jpg").read_bytes() == jpeg(1)  # the CRC detects any other content


def test_a_member_with_an_invalid_name_is_refused(tmp_path: Path, images: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a.jpg": b"", "x" * 300 + ".jpg": b""})
    with pytest.raises(CaptionlabError, match="too long a name"):
        extract(archive, images, everything)


def test_a_member_that_requests_gigabytes_is_refused(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An LZMA header may request a dictionary of 4 GiB."""

    def read(*arguments: object) -> bytes:
        raise MemoryError

    archive = zipped(tmp_path / "x.zip", {"a.jpg": b"x"})
    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    with pytest.raises(CaptionlabError, match=r"'a\.jpg' is truncated or damaged \(MemoryError\)"):
        extract(archive, images, everything)
