"""The reader of Flickr8k, on small packed and unpacked copies, and on the real dataset if available."""

import functools
import hashlib
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import captionlab.datasets.flickr8k as flickr8k_module
from captionlab.core.records import SPLITS
from captionlab.datasets.checks import check, read_photos
from captionlab.datasets.flickr8k import PHOTOS_ZIP, PUBLISHED, TEXT_ZIP, Counts, flickr8k
from captionlab.errors import CaptionlabError
from photo_sets import checked, jpeg, kinds, zipped

REAL = Path(__file__).parents[2] / "../shared/flickr8k"
TINY = Counts(photos=7, captions=16, train=4, val=1, test=1)


def zips(source: Path, **changes: Any) -> Path:
    """The two zips as published, with seven photos; ``changes`` replaces a text file's content."""
    source.mkdir(exist_ok=True)
    names = [f"{number}.jpg" for number in range(7)]
    tokens = "".join(f"{name}#{i}\tA dog , number {i} .\n" for name in [*names, "9.jpg.1"] for i in range(2))
    texts = {
        "Flickr8k.token.txt": tokens,
        "Flickr_8k.trainImages.txt": "".join(f"{name}\n" for name in names[:4]),
        "Flickr_8k.devImages.txt": "4.jpg\n",
        "Flickr_8k.testImages.txt": "5.jpg\n",
    } | {key.replace("__", "."): value for key, value in changes.items()}
    junk = {"__MACOSX/._Flickr8k.token.txt": b"junk", "readme.txt": b"read me"}
    encoded = {
        name: text.encode() if isinstance(text, str) else text for name, text in texts.items() if text is not None
    }
    zipped(source / TEXT_ZIP, encoded | junk)
    photos = {f"Flicker8k_Dataset/{name}": jpeg(number) for number, name in enumerate(names)}
    zipped(source / PHOTOS_ZIP, {"Flicker8k_Dataset/": b"", **photos, "__MACOSX/Flicker8k_Dataset/._0.jpg": b"junk"})
    return source


def test_the_published_flickr8k_is_read(tmp_path: Path, images: Path) -> None:
    raw = flickr8k(zips(tmp_path / "zips"), images, TINY)
    assert {path.name for path in images.iterdir()} == {f"{number}.jpg" for number in range(7)}
    assert (images / "3.jpg").read_bytes() == jpeg(3)
    assert {problem.kind for problem in raw.problems} == {"unexpected digest"}
    assert len(raw.problems) == 4
    result = checked(raw, images)
    assert [record.split for record in result.records] == ["train"] * 4 + ["val", "test"]
    assert result.records[0].captions == ("A dog , number 0 .", "A dog , number 1 .")
    assert result.set_aside == 1
    assert ("caption without photo", "9.jpg.1") in kinds(result.problems)


def test_flickr8k_with_other_counts_is_refused(tmp_path: Path, images: Path) -> None:
    source = zips(tmp_path / "zips")
    with pytest.raises(CaptionlabError, match=r"7 photos, 16 captions.* instead of 8,091 photos, 40,460 captions"):
        flickr8k(source, images)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"Flickr8k.token.txt": ""}, "has no captions"),
        ({"Flickr8k.token.txt": None}, "has no Flickr8k.token.txt"),
        ({"Flickr8k.token.txt": "0.jpg\tno number\n"}, "line 1 is not photo#number"),
        ({"Flickr8k.token.txt": b"0.jpg#0\t\xff\n"}, "not UTF-8"),
        ({"Flickr_8k.testImages.txt": ""}, "do.* not hold the published"),
    ],
)
def test_flickr8k_with_a_broken_text_is_refused(
    tmp_path: Path, images: Path, change: dict[str, Any], fault: str
) -> None:
    with pytest.raises(CaptionlabError, match=fault):
        flickr8k(zips(tmp_path / "zips", **change), images, TINY)


def test_judgments_are_read_with_the_texts(tmp_path: Path, images: Path) -> None:
    assert flickr8k(zips(tmp_path / "zips"), images, TINY).judged == []
    judged = {"ExpertAnnotations.txt": "0.jpg\t5.jpg#1\t1\t2\t4\n", "CrowdFlowerAnnotations.txt": b"\xff\xff\n"}
    raw = flickr8k(zips(tmp_path / "zips", **judged), images, TINY)
    (only,) = raw.judged
    assert (only.image, only.caption, only.marks) == ("0.jpg", "A dog , number 1 .", (1, 2, 4))
    assert ("broken judgments", "CrowdFlowerAnnotations.txt") in kinds(raw.problems)


def test_repeated_photos_and_captions_of_flickr8k_are_listed(tmp_path: Path, images: Path) -> None:
    tokens = "".join(f"{n}.jpg#{i}\tA dog .\n" for n in range(8) for i in (0, 1)) + "0.jpg#1\tAgain .\n"
    raw = flickr8k(zips(tmp_path / "zips", **{"Flickr8k.token.txt": tokens}), images, TINY)
    assert ("duplicate caption", "0.jpg#1") in kinds(raw.problems)
    assert len(raw.captions) == 16


def test_blank_lines_among_flickr8ks_captions_are_left_out(tmp_path: Path, images: Path) -> None:
    tokens = "\n \n".join(f"{n}.jpg#{i}\tA dog .\n" for n in range(8) for i in (0, 1))
    assert len(flickr8k(zips(tmp_path / "zips", **{"Flickr8k.token.txt": tokens}), images, TINY).captions) == 16


@pytest.mark.parametrize("name", [PHOTOS_ZIP, TEXT_ZIP])
def test_a_truncated_or_missing_zip_is_refused(tmp_path: Path, images: Path, name: str) -> None:
    source = zips(tmp_path / "zips")
    whole = (source / name).read_bytes()
    (source / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaptionlabError, match=f"{name} is truncated or damaged"):
        flickr8k(source, images, TINY)
    (source / name).unlink()
    with pytest.raises(CaptionlabError, match=rf"has no .*{name}"):
        flickr8k(source, images, TINY)


def unpacked_flat(source: Path) -> None:
    for name in (PHOTOS_ZIP, TEXT_ZIP):
        with zipfile.ZipFile(source / name) as opened:
            opened.extractall(source)


def unpacked_in_folders(source: Path) -> None:
    """Each zip unpacked into a folder of its name, and the photos' folder spelled correctly."""
    for name in (PHOTOS_ZIP, TEXT_ZIP):
        with zipfile.ZipFile(source / name) as opened:
            opened.extractall(source / Path(name).stem)


@pytest.mark.parametrize("unpack", [unpacked_flat, unpacked_in_folders])
@pytest.mark.parametrize("kept", [(), (PHOTOS_ZIP,), (TEXT_ZIP,)])
def test_unpacked_flickr8k_is_read_in_place(
    tmp_path: Path, images: Path, unpack: Callable[[Path], None], kept: tuple[str, ...]
) -> None:
    packed = flickr8k(zips(tmp_path / "zips"), images, TINY)
    source = zips(tmp_path / "unpacked")
    unpack(source)
    for name in {PHOTOS_ZIP, TEXT_ZIP} - set(kept):
        (source / name).unlink()
    again = tmp_path / "again"
    again.mkdir()
    assert flickr8k(source, again, TINY) == packed
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in images.iterdir()
    }


def test_flickr8k_is_downloaded_into_the_users_cache(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = zips(tmp_path / "zips")
    digests = {
        path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in source.iterdir()
    }
    monkeypatch.setattr(flickr8k_module, "_MD5", digests)
    monkeypatch.setenv("CAPTIONLAB_CACHE", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietFiles, directory=source)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        urls = {name: (f"{address}/moved/{name}", f"{address}/{name}") for name in digests}
        monkeypatch.setattr(flickr8k_module, "_URLS", urls)
        raw = flickr8k(tmp_path / "empty", images, TINY)
        server.shutdown()
    assert len(raw.captions) == 16
    assert {path.name for path in (tmp_path / "cache/flickr8k").glob("[!.]*")} == {PHOTOS_ZIP, TEXT_ZIP}
    flickr8k(tmp_path / "empty", images, TINY)  # the server is gone, the files are there


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
def test_the_real_flickr8k_has_the_published_counts(images: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here, so the real zips cannot be read")
    raw = flickr8k(REAL, images)  # asserts the counts
    assert Counts(photos=8_091, captions=40_460, train=6_000, val=1_000, test=1_000) == PUBLISHED
    # The four digests agree; some copies of the crowd's judgments are damaged.
    assert {problem.kind for problem in raw.problems} <= {"broken judgments"}
    assert Counter(each.judges for each in raw.judged)["experts"] == 5_822
    result = check(raw, read_photos(images), max_bad_share=0.01)
    assert [sum(record.split == split for record in result.records) for split in SPLITS] == [6_000, 1_000, 1_000]
    assert all(len(record.captions) == 5 for record in result.records)
    assert result.set_aside == 91
    assert ("caption without photo", "2258277193_586949ec62.jpg.1") in kinds(result.problems)
