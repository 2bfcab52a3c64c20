"""The sources on photos drawn here, damaged in every way that is listed, and on the real Flickr8k where it is."""

import functools
import hashlib
import io
import os
import random
import struct
import threading
import warnings
import zipfile
import zlib
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import captionlab.datasets.flickr8k as flickr8k_module
from captionlab.core.records import SPLITS, CaptionedImage
from captionlab.datasets import Found, Problem, archives
from captionlab.datasets.archives import extract
from captionlab.datasets.checks import Checked, check
from captionlab.datasets.flickr8k import PHOTOS_ZIP, PUBLISHED, TEXT_ZIP, Counts, flickr8k
from captionlab.datasets.folder import folder, split_by_photo
from captionlab.datasets.parquet import parquet
from captionlab.errors import CaptionlabError

REAL = Path(__file__).parents[2] / "../shared/flickr8k"
SHARES: dict[str, Any] = {"val_share": 0.2, "test_share": 0.2, "seed": 0}


def jpeg(seed: int) -> bytes:
    """A small photo of one colour, another for each seed."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (seed * 37 % 256, seed * 91 % 256, seed // 7 % 256)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


def kinds(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.kind, problem.item) for problem in problems]


# The checks


def found(images: Path, **photos: str) -> Found:
    """Ten sound photos a, b, ... in the splits given as {split: letters}, each with one caption."""
    for number, letter in enumerate("abcdefghij"):
        (images / f"{letter}.jpg").write_bytes(jpeg(number))
    named = {"train": "abcdef", "val": "gh", "test": "ij"} | photos
    return Found(
        captions=[(f"{letter}.jpg", f"caption {letter}") for letter in "abcdefghij"],
        splits={split: [f"{letter}.jpg" for letter in named[split]] for split in SPLITS},
    )


def checked(raw: Found, images: Path, share: float = 0.5) -> Checked:
    return check(raw, images, max_bad_share=share)


def test_a_sound_dataset_has_no_problems(images: Path) -> None:
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


def test_what_does_not_match_is_listed(images: Path) -> None:
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
    with pytest.raises(CaptionlabError, match=r"1 of 11 captions .*caption without photo: nowhere.jpg"):
        checked(raw, images, 0.05)


def test_overlapping_splits_stop_the_run(images: Path) -> None:
    with pytest.raises(CaptionlabError, match=r"train and test share 1 photo \(a.jpg\)"):
        checked(found(images, test="ija"), images)


def test_a_split_without_photos_stops_the_run(images: Path) -> None:
    with pytest.raises(CaptionlabError, match="the val split has no usable photo"):
        checked(found(images, val=""), images)


def test_the_digest_follows_photos_captions_and_splits(images: Path) -> None:
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


def test_whole_records_are_taken_apart_and_put_together_again(images: Path) -> None:
    records = checked(found(images), images).records
    assert checked(Found.of(records), images).records == records


# Zips


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(zipfile.ZipInfo(name), content, compression)
    return path


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


def test_a_member_that_lies_about_its_size_gives_no_more_than_it_said(tmp_path: Path, images: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a.jpg": bytes(5_000)}, zipfile.ZIP_DEFLATED)
    archive.write_bytes(archive.read_bytes().replace(struct.pack("<I", 5_000), struct.pack("<I", 50)))
    with pytest.raises(CaptionlabError, match="damaged"):
        extract(archive, images, everything)
    assert all(path.stat().st_size <= 50 for path in images.iterdir())


def test_a_name_that_comes_twice_is_said_twice_and_written_once(tmp_path: Path, images: Path) -> None:
    archive = zipped(tmp_path / "x.zip", {"a/x.jpg": b"first", "b/x.jpg": b"second", "a/": b""})
    assert extract(archive, images, everything) == ["x.jpg", "x.jpg"]
    assert (images / "x.jpg").read_bytes() == b"first"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(seed=st.integers(0, 1 << 32), cut=st.booleans(), method=st.sampled_from([0, 8, 12, 14]))
def test_a_damaged_zip_is_read_right_or_refused_in_one_line(
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
        assert (images / "a.jpg").read_bytes() == jpeg(1)  # the CRC lets no other content through


# Flickr8k

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


def test_flickr8k_is_read_as_published(tmp_path: Path, images: Path) -> None:
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


def test_flickr8k_of_other_counts_is_refused(tmp_path: Path, images: Path) -> None:
    source = zips(tmp_path / "zips")
    with pytest.raises(CaptionlabError, match=r"7 photos, 16 captions.* instead of 8,091 photos, 40,460 captions"):
        flickr8k(source, images)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"Flickr8k.token.txt": ""}, "holds no captions"),
        ({"Flickr8k.token.txt": None}, "holds no Flickr8k.token.txt"),
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


def test_flickr8k_repeats_are_listed(tmp_path: Path, images: Path) -> None:
    tokens = "".join(f"{n}.jpg#{i}\tA dog .\n" for n in range(8) for i in (0, 1)) + "0.jpg#1\tAgain .\n"
    raw = flickr8k(zips(tmp_path / "zips", **{"Flickr8k.token.txt": tokens}), images, TINY)
    assert ("duplicate caption", "0.jpg#1") in kinds(raw.problems)
    assert len(raw.captions) == 16


@pytest.mark.parametrize("name", [PHOTOS_ZIP, TEXT_ZIP])
def test_a_truncated_or_missing_zip_is_refused(tmp_path: Path, images: Path, name: str) -> None:
    source = zips(tmp_path / "zips")
    whole = (source / name).read_bytes()
    (source / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaptionlabError, match=f"{name} is truncated or damaged"):
        flickr8k(source, images, TINY)
    (source / name).unlink()
    with pytest.raises(CaptionlabError, match=f"has no {name}"):
        flickr8k(source, images, TINY)


def test_flickr8k_comes_from_its_mirrors_into_the_users_cache(
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


def test_the_real_flickr8k_holds_what_was_published(images: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here, so the real zips cannot be read")
    raw = flickr8k(REAL, images)  # asserts the counts
    assert Counts(photos=8_091, captions=40_460, train=6_000, val=1_000, test=1_000) == PUBLISHED
    assert raw.problems == []  # the four digests agree
    result = check(raw, images, max_bad_share=0.01)
    assert [sum(record.split == split for record in result.records) for split in SPLITS] == [6_000, 1_000, 1_000]
    assert all(len(record.captions) == 5 for record in result.records)
    assert result.set_aside == 91
    assert ("caption without photo", "2258277193_586949ec62.jpg.1") in kinds(result.problems)


# Parquet


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


def test_parquet_is_read_with_the_bytes_as_they_are(tmp_path: Path, images: Path) -> None:
    raw = parquet(parquet_files(tmp_path / "hub"), images)
    result = checked(raw, images, 0.0)
    assert [sum(record.split == split for record in result.records) for split in SPLITS] == [43, 2, 2]
    assert result.problems == []
    assert (images / "photo_42.jpg").read_bytes() == jpeg(42)
    assert result.records[-1].captions == tuple(f"caption {i} of 61" for i in range(5))


def test_parquet_photos_without_names_of_their_own_get_some(tmp_path: Path, images: Path) -> None:
    names = {"train-2": rows(12, path=None, captions=11), "validation-1": rows(2, 50, "../../same.jpg")}
    raw = parquet(parquet_files(tmp_path / "hub", **names), images)
    assert raw.splits["train"][:2] == ["photo_0.jpg", "photo_1.jpg"]
    assert "train-00043.jpg" in raw.splits["train"]
    assert raw.splits["val"] == ["photo_50.jpg", "photo_51.jpg", "same.jpg", "val-00003.jpg"]
    assert not (tmp_path / "same.jpg").exists()
    texts = [text for photo, text in raw.captions if photo == "train-00043.jpg"]
    assert texts == [f"caption {i} of 0" for i in range(11)]  # by number: caption_10 is the last


def test_parquet_holes_are_left_for_the_checks(tmp_path: Path, images: Path) -> None:
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


def test_broken_parquet_is_refused(tmp_path: Path, images: Path) -> None:
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
        (pa.table({"image": [{"bytes": b"", "path": ""}], "caption": ["x"]}), "no columns caption_0"),
    ):
        pq.write_table(table, path)
        with pytest.raises(CaptionlabError, match=fault):
            parquet(source, images)
    path.unlink()
    with pytest.raises(CaptionlabError, match=r"has no test\*.parquet"):
        parquet(source, images)


# Folder


def photo_folder(source: Path, captions: str | bytes | None, photos: str = "Images", count: int = 10) -> Path:
    (source / photos).mkdir(parents=True)
    for number in range(count):
        (source / photos / f"{number}.jpg").write_bytes(jpeg(number))
    (source / photos / "Thumbs.db").write_bytes(b"junk")
    if captions is not None:
        (source / "captions.txt").write_bytes(captions.encode() if isinstance(captions, str) else captions)
    return source


def lines(header: str, row: str, count: int = 10) -> str:
    return "\n".join([header, *(row.format(n) for n in range(count))]) + "\n"


@pytest.mark.parametrize("photos", ["Images", "."])
@pytest.mark.parametrize(
    ("header", "row", "caption"),
    [
        ("image,caption", '{}.jpg,"A ""big"" dog , running"', 'A "big" dog , running'),
        ("image,caption", "{}.jpg,A dog , running", "A dog , running"),
        ("image,caption", '{}.jpg,A "big" dog', 'A "big" dog'),
        ("\ufeffImage, Caption", '{}.jpg,"an open quote', "an open quote"),
        ("image\tcaption", '{}.jpg\t"A dog", running', '"A dog", running'),
        ("image,caption", "{}.jpg,line\u2028break\r", "line\u2028break"),
    ],
)
def test_folder_reads_the_captions_as_they_come(
    tmp_path: Path, images: Path, photos: str, header: str, row: str, caption: str
) -> None:
    raw = folder(photo_folder(tmp_path / "mine", lines(header, row), photos), images, **SHARES)
    assert raw.captions == [(f"{n}.jpg", caption) for n in range(10)]
    assert sorted(path.name for path in images.iterdir()) == [f"{n}.jpg" for n in range(10)]
    assert checked(raw, images, 0.0).problems == []


def test_folder_repeats_and_gaps_are_listed(tmp_path: Path, images: Path) -> None:
    text = lines("image,caption", "{}.jpg,A dog") + "0.jpg,A dog\n1.jpg\n\nx.jpg,of nothing\n"
    result = checked(folder(photo_folder(tmp_path / "mine", text, count=11), images, **SHARES), images)
    assert kinds(result.problems) == [
        ("caption without photo", "x.jpg"),
        ("duplicate caption", "0.jpg"),
        ("empty caption", "1.jpg"),
        ("photo without captions", "10.jpg"),
    ]


@pytest.mark.parametrize(
    ("captions", "fault"),
    [
        (None, "has no captions.txt"),
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("image,caption\n", "no captions below"),
        ("0.jpg,A dog\n", "must be image,caption"),
        ("image,caption\n0.jpg,caf\xe9\n".encode("latin-1"), "not UTF-8"),
        ("image,caption\n0.jpg," + "x" * 200_000, "line 2 is not comma-separated"),
        ("image,caption\n0.jpg,A dog\n1.jpg,A dog\n", "2 photos with captions are too few"),
    ],
)
def test_a_broken_captions_file_is_refused(
    tmp_path: Path, images: Path, captions: str | bytes | None, fault: str
) -> None:
    with pytest.raises(CaptionlabError, match=fault) as caught:
        folder(photo_folder(tmp_path / "mine", captions), images, **SHARES)
    assert "\n" not in str(caught.value)


def test_a_folder_without_photos_is_refused(tmp_path: Path, images: Path) -> None:
    with pytest.raises(CaptionlabError, match="holds no photos"):
        folder(photo_folder(tmp_path / "mine", "image,caption\n0.jpg,x\n", count=0), images, **SHARES)


def test_folder_takes_the_users_own_splits(tmp_path: Path, images: Path) -> None:
    source = photo_folder(tmp_path / "mine", lines("image,caption", "{}.jpg,A dog"))
    (source / "train.txt").write_text("".join(f"{n}.jpg\n" for n in range(8)))
    (source / "val.txt").write_text("8.jpg\n")
    with pytest.raises(CaptionlabError, match=r"no test.txt"):
        folder(source, images, **SHARES)
    (source / "test.txt").write_text("9.jpg\n0.jpg\n")
    raw = folder(source, images, **SHARES)
    assert raw.splits["test"] == ["9.jpg", "0.jpg"]
    with pytest.raises(CaptionlabError, match=r"train and test share 1 photo \(0.jpg\)"):
        checked(raw, images)


@settings(deadline=None)
@given(
    st.sets(st.text(min_size=1, max_size=4), min_size=5, max_size=40),
    st.floats(0.05, 0.4),
    st.floats(0.05, 0.4),
    st.integers(0, 100),
)
def test_splits_share_out_every_photo_once(photos: set[str], val: float, test: float, seed: int) -> None:
    splits = split_by_photo(photos, val_share=val, test_share=test, seed=seed)
    assert sorted(photo for split in SPLITS for photo in splits[split]) == sorted(photos)
    assert abs(len(splits["val"]) - val * len(photos)) <= 1
    assert abs(len(splits["test"]) - test * len(photos)) <= 1
    assert splits == split_by_photo(set(sorted(photos, reverse=True)), val_share=val, test_share=test, seed=seed)


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.1), (0.1, 1.0), (0.5, 0.5), (-0.1, 0.2)])
def test_impossible_shares_are_refused(val: float, test: float) -> None:
    with pytest.raises(CaptionlabError, match="val_share"):
        split_by_photo({str(n) for n in range(50)}, val_share=val, test_share=test, seed=0)


# What fuzzing found


def test_a_photo_is_looked_at_as_it_will_be_read(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large for the encoders, or a program for another program to draw: corrupt, before it costs anything."""
    tool = tmp_path / "bin/gs"  # Pillow gives PostScript to Ghostscript
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    raw = found(images)
    head = struct.pack(">IIBBBBB", 20_000, 6_000, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (images / "b.jpg").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    (images / "c.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        result = checked(raw, images)
    assert kinds(result.problems) == [("corrupt photo", "b.jpg"), ("corrupt photo", "c.jpg")]
    assert "20000x6000 pixels" in result.problems[0].detail
    assert not (tmp_path / "ran").exists()


def test_a_caption_of_a_megabyte_is_none(images: Path) -> None:
    raw = found(images)
    raw.captions.append(("a.jpg", "a " * 500_000))
    result = checked(raw, images)
    assert kinds(result.problems) == [("overlong caption", "a.jpg")]
    assert max(len(caption) for record in result.records for caption in record.captions) < 100


@pytest.mark.parametrize(
    ("image", "caption", "fault"),
    [
        ({"bytes": "text", "path": "a"}, pa.array(["x"]), "no column image"),
        ({"bytes": b"", "path": 7}, pa.array(["x"]), "no column image"),
        ({"bytes": b"", "path": "a"}, pa.array([1]), "no columns caption_0"),
        ({"bytes": b"", "path": "a"}, pa.array([["x"]]), "no columns caption_0"),
        (
            {"bytes": b"", "path": "a"},
            pa.Array.from_buffers(
                pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"\xff")]
            ),
            "is truncated or damaged",
        ),
    ],
)
def test_parquet_of_other_types_is_refused(
    tmp_path: Path, images: Path, image: dict[str, Any], caption: Any, fault: str
) -> None:
    table = pa.table({"image": [image], "caption_0": caption})
    with pytest.raises(CaptionlabError, match=fault):
        parquet(parquet_files(tmp_path / "hub", **{"test-00000-of-00001": table}), images)


def test_a_name_that_no_file_could_have_is_replaced_or_refused(tmp_path: Path, images: Path) -> None:
    names = {"test-00000-of-00001": rows(1, 60, "x" * 300 + "{}.jpg")}
    raw = parquet(parquet_files(tmp_path / "hub", **names), images)
    assert raw.splits["test"] == ["test-00000.jpg"]
    archive = zipped(tmp_path / "x.zip", {"a.jpg": b"", "x" * 300 + ".jpg": b""})
    with pytest.raises(CaptionlabError, match="too long a name"):
        extract(archive, images, everything)


def test_a_member_that_asks_for_gigabytes_is_damaged(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An LZMA header may ask for a dictionary of four."""

    def read(*arguments: object) -> bytes:
        raise MemoryError

    archive = zipped(tmp_path / "x.zip", {"a.jpg": b"x"})
    monkeypatch.setattr(zipfile.ZipExtFile, "read", read)
    with pytest.raises(CaptionlabError, match=r"'a\.jpg' is truncated or damaged \(MemoryError\)"):
        extract(archive, images, everything)
