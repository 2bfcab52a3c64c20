"""Readers of datasets: captions, splits, Flickr8k's files, zips, parquet, and the JSON of Karpathy and COCO."""

import io
import json
import struct
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import sklearn.model_selection  # noqa: F401 - what imports it when it first needs it would exceed an input's time

from captionlab.config import load_params
from captionlab.datasets import Found
from captionlab.datasets.archives import extract
from captionlab.datasets.checks import check, read_photos, usable
from captionlab.datasets.coco import coco
from captionlab.datasets.flickr8k import PHOTOS_ZIP, TEXT_ZIP, Counts, flickr8k
from captionlab.datasets.flickr30k import flickr30k
from captionlab.datasets.folder import folder
from captionlab.datasets.judgments import read_judgments
from captionlab.datasets.karpathy import karpathy
from captionlab.datasets.parquet import parquet
from captionlab.datasets.splits import completed
from torture.fuzz import Parser, mutate_bytes, mutate_json
from torture.parsers.inputs import (
    BAD_JSON,
    BAD_TEXTS,
    BIDI,
    MEGABYTE,
    PHOTOS,
    ROOT,
    TOKENS,
    fresh,
    jpeg,
    zipped,
)

_PARAMS = load_params(ROOT / "params.yaml")
_CAPTIONS = (
    b'image,caption\na.jpg,A dog runs .\na.jpg,"Two dogs, one ball"\nb.jpg,A man , sitting\nc.jpg,Grass \xc3\xa9\n',
    b'image\tcaption\na.jpg\tA dog runs .\nb.jpg\tA "man"\r\nc.jpg\t x\n',
    b'"id";"caption";"image"\n0;"A ""big"" dog";Images\\a.jpg\n1;Gras;b\n2;"Ein Ball; rot";c.JPG\n',
    b"image_name| comment_number| comment\na.jpg| 0| A dog\nb.jpg| 4   A dog runs .\nc.jpg#0| 0| Grass\n",
    b"a.jpg#0\tA dog runs .\nb.jpg#0\tA man\nc.jpg#1\tGrass\n",
    "image,split,caption\na.jpg,train,Ein Café\nb.jpg,val,Ein Cafe\u0301\nc.jpg,test,一只狗\n".encode(),
    b'image,caption,id\na.jpg,"A dog\nruns",1\nb.jpg,"A ""man""\r\n, sitting",2\n',
    b'\n \nImage;Text\na.jpg;"A dog\nruns"\nb.jpg;a 5" plate\nc.jpg;"A\ncat"\n',
    b"sep=;\nimage;caption 2;caption 1\na.jpg;A dog;A big dog\nb.jpg;;A man\n",
    "image\tcaption\na.jpg\tUn café\n".encode("utf-16"),
)
_METADATA = (
    b'{"file_name": "a.jpg", "text": "A dog", "split": "train"}\n{"file_name": "b.jpg", "text": ["A man", "x"]}\n'
    b'{"file_name": "c.jpg", "caption_1": "Grass", "caption_2": null}\n',
)
_SPLIT = (b"a.jpg\n", b"a.jpg\nb.jpg\n", b"\xef\xbb\xbfa.jpg\r\n\n")


def _folder_of(captions: bytes, train: bytes, work: Path, name: str = "captions.txt") -> Path:
    source = work / "source"
    if not source.exists():
        (source / "Images").mkdir(parents=True)
        (work / "images").mkdir()
        for photo in PHOTOS:
            (source / "Images" / photo).write_bytes(jpeg())
        (source / "val.txt").write_text("b.jpg\n")
        (source / "test.txt").write_text("c.jpg\n")
    (source / name).write_bytes(captions)
    (source / "train.txt").write_bytes(train)
    return source


def _read_folder(source: Path, work: Path) -> None:
    _check(folder(source, work / "images"), work / "images")


def _check(found: Found, images: Path) -> None:
    """Run the checks that follow every reader in the stage."""
    photos = read_photos(images)
    found = completed(found, photos, _PARAMS.dataset, partial(usable, found, photos))
    check(found, photos, max_bad_share=0.99)


def _captions(data: bytes, work: Path) -> None:
    _read_folder(_folder_of(data, b"a.jpg\n", work), work)


def _metadata(data: bytes, work: Path) -> None:
    _read_folder(_folder_of(data, b"a.jpg\n", work, "metadata.jsonl"), work)


def _splits(data: bytes, work: Path) -> None:
    _read_folder(_folder_of(_CAPTIONS[0], data, work), work)


_JUDGMENTS = {
    "ExpertAnnotations.txt": b"a.jpg\tb.jpg#0\t1\t2\t4\na.jpg\ta.jpg#0\t3\t3\t4\n\xff\xff\xff\n",
    "CrowdFlowerAnnotations.txt": b"a.jpg\tb.jpg#0\t0.333\t1\t2\r\nc.jpg\tb.jpg#0\t0\t0\t3\n",
}


def _texts(tokens: bytes) -> bytes:
    splits = {"Flickr_8k.trainImages.txt": b"a.jpg\n", "Flickr_8k.devImages.txt": b"b.jpg\n"}
    return zipped({"Flickr8k.token.txt": tokens, **splits, "Flickr_8k.testImages.txt": b"c.jpg\n", **_JUDGMENTS})


def _judgments(data: bytes, work: Path) -> None:
    """Use the same bytes for both files; all marks that are read must be in range."""
    work.mkdir(exist_ok=True)
    for name in _JUDGMENTS:
        (work / name).write_bytes(data)
    captions = {f"{photo}#0": f"A dog , {photo}" for photo in PHOTOS}
    judged, _ = read_judgments(work, captions, {photo: [captions[f"{photo}#0"]] for photo in PHOTOS})
    assert all(0 <= mark <= 4 for each in judged for mark in each.marks)


_PHOTO_ZIP = zipped({f"Flicker8k_Dataset/{name}": jpeg() for name in PHOTOS})


def _flickr8k(data: bytes, work: Path) -> None:
    """Read the data as the zip of texts, with counts that match the unmutated zip."""
    source = work / "source"
    if not source.exists():
        source.mkdir()
        (work / "images").mkdir()
        (source / PHOTOS_ZIP).write_bytes(_PHOTO_ZIP)
    (source / TEXT_ZIP).write_bytes(data)
    published = Counts(photos=3, captions=9, train=1, val=1, test=1)
    _check(flickr8k(source, work / "images", published), work / "images")


def _zip(data: bytes, work: Path) -> None:
    out = work / "out"
    path = fresh(work, x__zip=data) / "x.zip"
    out.mkdir()
    extract(path, out, lambda member: member.name if member.suffix else None)
    if stray := [p for p in work.parent.rglob("stray*") if out not in p.parents]:
        raise AssertionError(f"{stray} left the folder")


def _unsafe_zips() -> list[bytes]:
    names = (
        "../stray.jpg",
        "/tmp/stray.jpg",
        "a/../../stray.jpg",
        "..\\stray.jpg",
        "C:\\stray.jpg",
        "\\\\h\\stray.jpg",
    )
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as archive:
        info = zipfile.ZipInfo("stray.jpg")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    bomb = zipped({"a.jpg": bytes(60 << 20)}, zipfile.ZIP_DEFLATED)
    inner = zipped({f"{i}.jpg": bytes(MEGABYTE) for i in range(200)}, zipfile.ZIP_BZIP2)
    long_name = zipped({"x" * 60_000 + ".jpg": b"x"})
    many = zipped({f"{i}.jpg": b"" for i in range(300)})
    return [*(zipped({name: b"x"}) for name in names), link.getvalue(), bomb, inner, long_name, many, b"", b"PK\5\6"]


def _parquet_file(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def _parquets() -> tuple[list[bytes], list[bytes]]:
    image = {"bytes": jpeg(), "path": "a.jpg"}
    valid = [
        _parquet_file(
            image=[image, {"bytes": jpeg("blue"), "path": None}], caption_0=["A dog", None], caption_1=["x", "y"]
        ),
        _parquet_file(image=[{"bytes": jpeg(), "path": "../../stray.jpg"}], caption_0=[BIDI]),
        _parquet_file(image=[jpeg()], caption=[["A dog", None, "e\u0301"]], split=["train"]),
        _parquet_file(image=[image], text=pa.array(["A dog"]).dictionary_encode()),
        _parquet_file(image=[image], text=pa.array(["A dog"], pa.string_view())),
    ]
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xff\xfe")]
    )
    malformed = [
        _parquet_file(image=[image], caption_0=[1]),
        _parquet_file(image=[image], caption_0=[["a", "b"]]),
        _parquet_file(image=[image], caption_0=[b"\xff"]),
        _parquet_file(image=[image], caption_0=broken),
        _parquet_file(image=[{"bytes": "text", "path": "a.jpg"}], caption_0=["a"]),
        _parquet_file(image=[{"bytes": 5, "path": 7}], caption_0=["a"]),
        _parquet_file(image=[{"bytes": jpeg(), "path": b"a"}], caption_0=["a"]),
        _parquet_file(image=[{"bytes": jpeg(), "path": "x" * 5000 + ".jpg"}], caption_0=["a"]),
        _parquet_file(image=[{"bytes": jpeg(), "path": "a\0.jpg"}], caption_0=["a" * MEGABYTE]),
        _parquet_file(image=[{"bytes": jpeg(), "path": ".."}], **{f"caption_{'9' * 5000}": ["a"]}),
        *(b"", b"PAR1", b"PAR1PAR1"),
    ]
    return valid, malformed


def _parquet(data: bytes, work: Path) -> None:
    source = fresh(
        work / "source", train__parquet=data, val__parquet=_VALID_PARQUET[0], test__parquet=_VALID_PARQUET[1]
    )
    images = fresh(work / "images")
    _check(parquet(source, images), images)


_VALID_PARQUET = [
    _parquet_file(image=[{"bytes": jpeg(colour), "path": f"{colour}.jpg"}], caption_0=["A dog"])
    for colour in ("green", "blue")
]


_KARPATHY = json.dumps({
    "dataset": "coco",
    "images": [
        {
            "filepath": "val2014", "filename": name, "cocoid": number, "split": split,
            "sentences": [{"raw": "A dog runs .", "tokens": ["a", "dog"]}, {"raw": BIDI}, {"raw": "Ein Café"}],
        }
        for number, (name, split) in enumerate(zip(PHOTOS, ("restval", "val", "test"), strict=True))
    ],
}).encode()  # fmt: skip
_COCO = json.dumps({
    "images": [{"id": number, "file_name": name} for number, name in enumerate(PHOTOS)],
    "annotations": [
        {"image_id": number, "id": 9, "caption": text} for number in range(3) for text in ("A dog .", BIDI, "Café")
    ],
}).encode()  # fmt: skip
_BAD_JSON = (*BAD_JSON, b'{"images": [{}]}', b'{"annotations": [{}]}', b'{"images": [], "annotations": []}')


def _source_with(work: Path, name: str, data: bytes) -> Path:
    """A source folder with the three photos and the file ``name``."""
    source = work / "source"
    if not source.exists():
        (source / "Images").mkdir(parents=True)
        for photo in PHOTOS:
            (source / "Images" / photo).write_bytes(jpeg())
    (source / name).write_bytes(data)
    return source


def _karpathy(data: bytes, work: Path) -> None:
    images = fresh(work / "images")
    _check(karpathy(_source_with(work, "dataset_mine.json", data), images), images)


def _coco(data: bytes, work: Path) -> None:
    images = fresh(work / "images")
    _check(coco(_source_with(work, "captions_train.json", data), images), images)


def _flickr30k(data: bytes, work: Path) -> None:
    """Read the data as ``results.csv``, without the published counts."""
    images = fresh(work / "images")
    _check(flickr30k(_source_with(work, "results.csv", data), images, {}), images)


def _mutate_texts(rng: Random, corpus: Sequence[bytes]) -> bytes:
    return mutate_bytes(rng, corpus) if rng.random() < 0.2 else _texts(mutate_bytes(rng, [TOKENS]))


def parsers() -> list[Parser]:
    """Every reader of datasets."""
    valid, malformed = _parquets()
    zips = [_texts(TOKENS), _PHOTO_ZIP, *(zipped({"a.jpg": jpeg(), "b.txt": b"x" * 99}, m) for m in (8, 12, 14))]
    return [
        Parser(
            name="captions file", corpus=_CAPTIONS, read=_captions, mutate=mutate_bytes, special=BAD_TEXTS, share=3
        ),
        Parser(
            name="metadata lines", corpus=_METADATA, read=_metadata, mutate=mutate_bytes,
            special=[*BAD_TEXTS, *BAD_JSON],
        ),
        Parser(name="split files", corpus=_SPLIT, read=_splits, mutate=mutate_bytes, special=BAD_TEXTS, share=2),
        Parser(
            name="Flickr8k judgments", corpus=list(_JUDGMENTS.values()), read=_judgments, mutate=mutate_bytes,
        ),
        Parser(
            name="Flickr8k texts", corpus=[_texts(TOKENS)], read=_flickr8k, mutate=_mutate_texts, share=2,
            special=[*map(_texts, BAD_TEXTS), *_unsafe_zips()],
        ),
        Parser(name="zips", corpus=zips, read=_zip, mutate=mutate_bytes, special=_unsafe_zips(), share=3),
        Parser(name="parquet", corpus=valid, read=_parquet, mutate=mutate_bytes, special=malformed, share=3),
        Parser(
            name="Karpathy JSON", corpus=[_KARPATHY], read=_karpathy, mutate=mutate_json, special=_BAD_JSON, share=3
        ),
        Parser(name="COCO JSON", corpus=[_COCO], read=_coco, mutate=mutate_json, special=_BAD_JSON, share=3),
        Parser(
            name="Flickr30k", corpus=_CAPTIONS[3:4], read=_flickr30k, mutate=mutate_bytes, special=BAD_TEXTS, share=2
        ),
    ]  # fmt: skip
