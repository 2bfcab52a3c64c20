"""The parsers that are fuzzed, each with valid files to begin with and a list of nasty ones."""

import io
import json
import shutil
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import save

from builders import identity
from captionlab.commands.preset import apply_preset
from captionlab.commands.score import score_files
from captionlab.config import Params, build_system, load_params
from captionlab.core.files import read_json, read_jsonl
from captionlab.core.records import LONGEST_CAPTION, Decoding
from captionlab.core.validation import validate
from captionlab.data.photos import FORMATS, fault_of, read_photo
from captionlab.data.store import open_store
from captionlab.data.text import CLEANINGS, clean
from captionlab.data.vocab import Vocabulary
from captionlab.datasets import Found
from captionlab.datasets.archives import extract
from captionlab.datasets.checks import check
from captionlab.datasets.flickr8k import PHOTOS_ZIP, TEXT_ZIP, Counts, flickr8k
from captionlab.datasets.folder import folder
from captionlab.datasets.parquet import parquet
from captionlab.datasets.scenes import scene_words
from captionlab.datasets.splits import completed
from captionlab.errors import CaptionlabError
from captionlab.models.build import build_model
from captionlab.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tiff_tags import tag, tiff
from torture.fuzz import Parser, mutate_bytes, mutate_json

ROOT = Path(__file__).parents[2]
_PARAMS = load_params(ROOT / "params.yaml")
_MEGABYTE = 1 << 20
_BIDI = "\u202eabc\u202c \u2066x\u2069 \u200b\u200f\ufeff\x1b[2J\x07"
_PHOTOS = ("a.jpg", "b.jpg", "c.jpg")


def jpeg(colour: str = "red", size: tuple[int, int] = (8, 6)) -> bytes:
    """A small photo."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG")
    return out.getvalue()


def _fresh(folder: Path, **content: bytes) -> Path:
    """The folder, emptied, with these files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


# ---- datasets

_CAPTIONS = (
    b'image,caption\na.jpg,A dog runs .\na.jpg,"Two dogs, one ball"\nb.jpg,A man , sitting\nc.jpg,Grass \xc3\xa9\n',
    b'image\tcaption\na.jpg\tA dog runs .\nb.jpg\tA "man"\r\nc.jpg\t x\n',
    b'"id";"caption";"image"\n0;"A ""big"" dog";Images\\a.jpg\n1;Gras;b\n2;"Ein Ball; rot";c.JPG\n',
    b"image_name| comment_number| comment\na.jpg| 0| A dog\nb.jpg| 4   A dog runs .\nc.jpg#0| 0| Grass\n",
    b"a.jpg#0\tA dog runs .\nb.jpg#0\tA man\nc.jpg#1\tGrass\n",
    "image,split,caption\na.jpg,train,Ein Café\nb.jpg,val,Ein Cafe\u0301\nc.jpg,test,一只狗\n".encode(),
)
_SPLIT = (b"a.jpg\n", b"a.jpg\nb.jpg\n", b"\xef\xbb\xbfa.jpg\r\n\n")
_UGLY_TEXTS = (
    *(b"", b"\n", b"\0", b"\xff\xfea\0", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"image,caption", b"image,caption\n"),
    b"image,caption\na.jpg," + b"a " * _MEGABYTE,
    b"image,caption\na.jpg," + b"a" * _MEGABYTE,
    b"image\tcaption\na.jpg\t" + b"a " * _MEGABYTE,
    b"image,caption\n" + b'"' * _MEGABYTE,
    b"image,caption\na.jpg," + _BIDI.encode(),
    b"image,caption\n../../etc/passwd,x\n/etc/passwd,y\nC:\\x,z\n",
    b"image,caption\n" + b"a.jpg,x\n" * 20_000,
    b"image,caption\n" + b"/".join([b"a"] * 20_000) + b",x\n",
    b"#1" * _MEGABYTE,
    b"image,caption\n" + "\u0301\u0327".encode() * 100_000 + b",x\n",
    b"image,caption\na.jpg," + "e\u0301".encode() * 100_000,
    b"image,caption\na.jpg,e" + "\u0301\u0327".encode() * 2_500,
)


def _folder_of(captions: bytes, train: bytes, work: Path) -> Path:
    source = work / "source"
    if not source.exists():
        (source / "Images").mkdir(parents=True)
        (work / "images").mkdir()
        for name in _PHOTOS:
            (source / "Images" / name).write_bytes(jpeg())
        (source / "val.txt").write_text("b.jpg\n")
        (source / "test.txt").write_text("c.jpg\n")
    (source / "captions.txt").write_bytes(captions)
    (source / "train.txt").write_bytes(train)
    return source


def _read_folder(source: Path, work: Path) -> None:
    _check(folder(source, work / "images"), work / "images")


def _check(found: Found, images: Path) -> None:
    """As the stage does after a reader."""
    names = [path.name for path in images.iterdir()]
    check(completed(found, names, _PARAMS.dataset), images, max_bad_share=0.99)


def _captions(data: bytes, work: Path) -> None:
    _read_folder(_folder_of(data, b"a.jpg\n", work), work)


def _splits(data: bytes, work: Path) -> None:
    _read_folder(_folder_of(_CAPTIONS[0], data, work), work)


_TOKENS = b"".join(b"%s#%d\tA dog number %d runs .\n" % (p.encode(), i, i) for p in _PHOTOS for i in range(3))


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip of these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return out.getvalue()


def _texts(tokens: bytes) -> bytes:
    splits = {"Flickr_8k.trainImages.txt": b"a.jpg\n", "Flickr_8k.devImages.txt": b"b.jpg\n"}
    return zipped({"Flickr8k.token.txt": tokens, **splits, "Flickr_8k.testImages.txt": b"c.jpg\n"})


_PHOTO_ZIP = zipped({f"Flicker8k_Dataset/{name}": jpeg() for name in _PHOTOS})


def _flickr8k(data: bytes, work: Path) -> None:
    """The zip of texts as it is given; as the published numbers, whatever is in it."""
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
    path = _fresh(work, x__zip=data) / "x.zip"
    out.mkdir()
    extract(path, out, lambda member: member.name if member.suffix else None)
    if stray := [p for p in work.parent.rglob("stray*") if out not in p.parents]:
        raise AssertionError(f"{stray} left the folder")


def _slips() -> list[bytes]:
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
    inner = zipped({f"{i}.jpg": bytes(_MEGABYTE) for i in range(200)}, zipfile.ZIP_BZIP2)
    long_name = zipped({"x" * 60_000 + ".jpg": b"x"})
    many = zipped({f"{i}.jpg": b"" for i in range(300)})
    return [*(zipped({name: b"x"}) for name in names), link.getvalue(), bomb, inner, long_name, many, b"", b"PK\5\6"]


def _parquet_file(**columns: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def _parquets() -> tuple[list[bytes], list[bytes]]:
    image = {"bytes": jpeg(), "path": "a.jpg"}
    sound = [
        _parquet_file(
            image=[image, {"bytes": jpeg("blue"), "path": None}], caption_0=["A dog", None], caption_1=["x", "y"]
        ),
        _parquet_file(image=[{"bytes": jpeg(), "path": "../../stray.jpg"}], caption_0=[_BIDI]),
        _parquet_file(image=[jpeg()], caption=[["A dog", None, "e\u0301"]], split=["train"]),
        _parquet_file(image=[image], text=pa.array(["A dog"]).dictionary_encode()),
        _parquet_file(image=[image], text=pa.array(["A dog"], pa.string_view())),
    ]
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xff\xfe")]
    )
    odd = [
        _parquet_file(image=[image], caption_0=[1]),
        _parquet_file(image=[image], caption_0=[["a", "b"]]),
        _parquet_file(image=[image], caption_0=[b"\xff"]),
        _parquet_file(image=[image], caption_0=broken),
        _parquet_file(image=[{"bytes": "text", "path": "a.jpg"}], caption_0=["a"]),
        _parquet_file(image=[{"bytes": 5, "path": 7}], caption_0=["a"]),
        _parquet_file(image=[{"bytes": jpeg(), "path": b"a"}], caption_0=["a"]),
        _parquet_file(image=[{"bytes": jpeg(), "path": "x" * 5000 + ".jpg"}], caption_0=["a"]),
        _parquet_file(image=[{"bytes": jpeg(), "path": "a\0.jpg"}], caption_0=["a" * _MEGABYTE]),
        _parquet_file(image=[{"bytes": jpeg(), "path": ".."}], **{f"caption_{'9' * 5000}": ["a"]}),
        *(b"", b"PAR1", b"PAR1PAR1"),
    ]
    return sound, odd


def _parquet(data: bytes, work: Path) -> None:
    source = _fresh(work / "source", train__parquet=data, val__parquet=_GOOD_PARQUET[0], test__parquet=_GOOD_PARQUET[1])
    images = _fresh(work / "images")
    _check(parquet(source, images), images)


_GOOD_PARQUET = [
    _parquet_file(image=[{"bytes": jpeg(colour), "path": f"{colour}.jpg"}], caption_0=["A dog"])
    for colour in ("green", "blue")
]


# ---- parameters and JSON


def _small_params() -> dict[str, Any]:
    params: dict[str, Any] = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    further = {"system": "baseline", "config": "lite0", "samples": 2, "cross_entropy": 0.2, "training": {"epochs": 1}}
    return params | {"finetune": {"more": further}, "ensemble": {"both": {"members": ["baseline.lite0"]}}}


def _params_values(data: bytes, work: Path) -> None:
    validate(Params, _json(data))


def _params_yaml(data: bytes, work: Path) -> None:
    (work / "params.yaml").write_bytes(data)
    load_params(work / "params.yaml")


def _preset(data: bytes, work: Path) -> None:
    shutil.copy(ROOT / "params.yaml", work / "params.yaml")
    (work / "presets").mkdir(exist_ok=True)
    (work / "presets/own.yaml").write_bytes(data)
    apply_preset(work, "own")


def _grammar(data: bytes, work: Path) -> None:
    (work / "grammar.yaml").write_bytes(data)
    scene_words(work)


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CaptionlabError("not JSON") from error


_LAUGHS = ("device: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"k{i}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)).encode()  # fmt: skip
_LAUGHING = b"device: [" + _LAUGHS.replace(b"device: ", b"", 1).replace(b"\n", b", ").replace(b": &", b": &") + b"]"
_NASTY_YAML = (
    *(_LAUGHS, b"a: &a [&b [&c [*a]]]", b"device: 0x" + b"f" * 5000, b"device: &a {<<: *a}", b"\xff", b"", b"\0"),
    b"a: " + b"[" * 5000, b"{" * 5000, b"device: " + b"9" * 6000, b"? " * 5000, b"- " * 5000, b"device: !!binary x",
    b"device: " + b"a" * _MEGABYTE, b"device: [&a [x,x,x,x,x,x,x,x,x], " + b", ".join(
        b"&%c [%s]" % (98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(8)) + b"]",
)  # fmt: skip


def _score(data: bytes, work: Path) -> None:
    """One JSON of references and hypotheses together, or bytes that stand for both files."""
    references, hypotheses = work / "refs.json", work / "hyps.json"
    try:
        both = json.loads(data)
        texts = [json.dumps(both[key]).encode() for key in ("references", "hypotheses")]
    except (ValueError, RecursionError, TypeError, KeyError):
        texts = [data, data]
    for path, text in zip((references, hypotheses), texts, strict=True):
        path.write_bytes(text)
    score_files(references, hypotheses)


def _pair(references: Any, hypotheses: Any) -> bytes:
    return json.dumps({"references": references, "hypotheses": hypotheses}).encode()


_SCORES = (
    _pair({"1": ["A dog runs .", "a man"], "2": ["two dogs", _BIDI]}, {"1": "a dog", "2": "two cats"}),
    _pair({"a": ["x y z w v"]}, {"a": ""}),
)
_NASTY_SCORES = (
    *(
        b"",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff",
        b"\0",
        b"9" * 5000,
        b'{"a": 1, "a": 2}',
        b"[]",
        b"null",
        b"NaN",
    ),
    _pair({"a": ["a " * (_MEGABYTE // 2)]}, {"a": "a " * (_MEGABYTE // 2)}),
    _pair({"a": ["ab " * (_MEGABYTE // 3)]}, {"a": " ".join(map(str, range(150_000)))}),
    _pair({"a": ["\ud800 \udfff x"]}, {"a": "\ud800"}),
    _pair({"a": ["\u202e" * 1000]}, {"a": "\0" * 1000}),
    _pair({str(i): ["x"] for i in range(5000)}, {str(i): "x" for i in range(5000)}),
)
_ROWS = b'{"image": "a.jpg", "split": "train", "captions": ["A", "\xc3\xa9"]}\n{"image": "b", "n": [1, 2.5, null]}\n'
_VOCABULARY = b'{"cleaning": "standard", "min_count": 3, "words": ["<pad>", "<start>", "<end>", "<unk>", "dog", "a"]}'


def _lines(data: bytes, work: Path) -> None:
    path = work / "rows.jsonl"
    path.write_bytes(data)
    read_jsonl(path)


def _whole(data: bytes, work: Path) -> None:
    path = work / "value.json"
    path.write_bytes(data)
    read_json(path)


def _vocabulary(data: bytes, work: Path) -> None:
    path = work / "vocab.json"
    path.write_bytes(data)
    vocabulary = Vocabulary.from_json(read_json(path), str(path))
    vocabulary.decode(vocabulary.encode(["dog", "unheard"]))
    assert vocabulary.digest


_TEXTS = ("Ein Hund läuft, 3 Bälle!", "Một chú chó ❤️", "一只狗在跑。 ที่ 한국어")


def _cleaning(data: bytes, work: Path) -> None:
    """Any text of a caption's length is a caption; the words never hold a blank, and no accent has two forms."""
    text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")[:LONGEST_CAPTION]
    for cleaning in CLEANINGS:
        words = clean(text, cleaning)  # type: ignore[arg-type]
        assert all(words)
        assert words == clean(unicodedata.normalize("NFD", text), cleaning)  # type: ignore[arg-type]
        if cleaning != "report_b":
            assert all(word.split() == [word] for word in words)


# ---- weights


def _checkpoints() -> tuple[list[bytes], list[bytes]]:
    import tempfile

    sound = []
    vocab = Vocabulary.from_json(json.loads(_VOCABULARY), "")
    configs = {
        "baseline": {},
        "attention": {"attention": 4, "memory": 0, "teacher_forcing": True, "tied": True},
    }
    with tempfile.TemporaryDirectory() as place:
        for system, own in configs.items():
            values = {"encoder": "e", "embedding": 4, "hidden": 4, "layers": 1, "dropout": 0.0, **own}
            config = build_system(system, values)
            model = build_model(config, vocab=len(vocab), pooled=3, channels=5)
            about = identity(system, config, encoder="e", pooled=3, channels=5)
            made = Checkpoint(model=model, vocab=vocab, identity=about, decoding=Decoding())
            save_checkpoint(Path(place) / "x", made)
            sound.append((Path(place) / "x").read_bytes())
    nasty = [b"", b"\x80\x04.", struct.pack("<Q", 1 << 62), struct.pack("<Q", 2) + b"{}", save({"a": torch.zeros(1)})]
    return sound, nasty


def _mutate_checkpoint(rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Mutate what the file says of itself and of its tensors, as JSON; or its bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, corpus)
    data = rng.choice(corpus)
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + size])
        about = header["__metadata__"]["captionlab"].encode()
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # of what has grown
        return mutate_bytes(rng, corpus)
    if rng.random() < 0.7:
        header["__metadata__"]["captionlab"] = mutate_json(rng, [about]).decode("utf-8", "replace")
        text = json.dumps(header).encode()
    else:
        text = mutate_json(rng, [json.dumps(header).encode()])
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _checkpoint(data: bytes, work: Path) -> None:
    path = work / "checkpoint.safetensors"
    path.write_bytes(data)
    assert load_checkpoint(path).vocab.digest


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


_ABOUT = json.dumps(
    {"encoder": "e", "pixels": 8, "preprocessing": "p", "weights": "w", "grid": 2, "images": ["a", "b"]}
).encode()


def _store(pooled: bytes, about: bytes, work: Path) -> None:
    store = open_store(
        _fresh(work / "store", pooled__npy=pooled, grid__npy=_npy(np.zeros((2, 4, 3), np.float16)), images__json=about)
    )
    store.rows(["a"])
    assert store.side >= 0
    assert store.pooled.shape[1] > 0


# ---- photos

_ODD_TAGS = (
    (tag(0x10E, 5, 1, b""),),  # text as a fraction
    (tag(0x11A, 10, 1, b""), tag(0x128, 3, 1, b"\3\0")),
    (tag(0x11A, 2, 1, b"x"), tag(0x128, 1, 1, b"\2")),
    (tag(0x102, 1, 3, b"\x08\x08\x08"), tag(0x2BC, 4, 1, b"\0\0\0\0")),
    (tag(0x8769, 9, 1, b"\xff\xff\xff\xff"), tag(0x8825, 16, 1, b"")),
)


def _photos() -> list[bytes]:
    """Every format and mode; those that carry EXIF lie on their side, and some say odd things of themselves."""
    photos = [tiff(Image.new("RGB", (9, 5)), *tags) for tags in _ODD_TAGS]
    exif = tiff(None, tag(0x10E, 2, 4, b"abc\0"), tag(0x11A, 5, 1, bytes(8)), tag(0x128, 3, 1, b"\2\0"))
    for kind in ("JPEG", "PNG", "WEBP"):
        for tags in _ODD_TAGS:
            out = io.BytesIO()
            Image.new("RGB", (9, 5)).save(out, kind, exif=b"Exif\0\0" + tiff(None, *tags))
            photos.append(out.getvalue())
    for kind in FORMATS:
        for mode in ("RGB", "L", "P", "RGBA", "1", "I;16", "CMYK"):
            out = io.BytesIO()
            image = Image.linear_gradient("L").resize((17, 12))
            try:
                (image if mode == "L" else image.convert(mode)).save(
                    out, kind, **({"exif": b"Exif\0\0" + exif} if kind in ("JPEG", "PNG", "WEBP") else {})
                )
            except (OSError, ValueError, KeyError):
                continue
            photos.append(out.getvalue())
    moving = io.BytesIO()
    frames = [Image.new("P", (9, 9), i) for i in range(3)]
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    return [*photos, moving.getvalue()]


def png(width: int, height: int, colour: int = 2, depth: int = 8, rows: bytes = b"") -> bytes:
    """A PNG that says it is so large, whatever it holds."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def _mutate_photo(rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Mutate; half of the PNGs get sums that fit again, or nothing behind the first would be looked at."""
    data = mutate_bytes(rng, corpus)
    if data[:4] != b"\x89PNG" or rng.random() < 0.5:
        return data
    out, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + size]
        out += struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(out)


def _photo(data: bytes, work: Path) -> None:
    assert read_photo(data, 16).shape == (16, 16, 3)


def _checked_photo(data: bytes, work: Path) -> None:
    """As a dataset's: what the checks take, every later stage can read."""
    images = work / "images"
    if not images.exists():
        images.mkdir()
        for name in ("b.jpg", "c.jpg"):
            (images / name).write_bytes(jpeg(size=(4, 4)))
    (images / "a.jpg").write_bytes(data)
    found = Found(
        captions=[(name, "x") for name in _PHOTOS], splits={"train": ["a.jpg"], "val": ["b.jpg"], "test": ["c.jpg"]}
    )
    check(found, images, max_bad_share=0.5)
    if fault_of(images / "a.jpg") is None:
        for pixels in (16, 224):
            read_photo(images / "a.jpg", pixels)


_HUGE = (
    png(2**31 - 1, 2**31 - 1),
    png(60_000, 60_000),
    png(20_000, 6_000, rows=bytes(1000)),
    png(13_000, 13_000, rows=bytes(13_001 * 20)),
    png(0, 0),
    png(1, 2**31 - 1),
    png(9_999, 9_999, 6, 16, bytes(1000)),
    b"P6 99999 99999 255\n",
    b"P6 0 0 255\n",
    b"P5 9999 9999 65535\n",
    b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 2**31 - 1, -(2**31), 1, 24) + bytes(30),
    b"",
    b"\xff\xd8\xff",
    b"II*\0" + b"\xff" * 50,
)


def parsers() -> list[Parser]:
    """Every parser, the cheap ones too."""
    sound, odd = _parquets()
    checkpoints, broken = _checkpoints()
    params = _small_params()
    sections = [{key: params[key]} for key in ("dataset", "training", "baseline", "attention", "evaluate")]
    yaml = [(ROOT / "presets" / name).read_bytes() for name in ("report_a_lite.yaml", "image_places.yaml")]
    read: Callable[..., Parser] = Parser
    pooled = _npy(np.zeros((2, 3), np.float32))
    return [
        read(name="captions file", corpus=_CAPTIONS, read=_captions, mutate=mutate_bytes, nasty=_UGLY_TEXTS, share=3),
        read(name="split files", corpus=_SPLIT, read=_splits, mutate=mutate_bytes, nasty=_UGLY_TEXTS, share=2),
        read(
            name="Flickr8k texts",
            corpus=[_texts(_TOKENS)],
            read=_flickr8k,
            mutate=_mutate_texts,
            share=2,
            nasty=[*map(_texts, _UGLY_TEXTS), *_slips()],
        ),
        read(
            name="zips",
            corpus=[
                _texts(_TOKENS),
                _PHOTO_ZIP,
                *(zipped({"a.jpg": jpeg(), "b.txt": b"x" * 99}, m) for m in (8, 12, 14)),
            ],
            read=_zip,
            mutate=mutate_bytes,
            nasty=_slips(),
            share=3,
        ),
        read(name="parquet", corpus=sound, read=_parquet, mutate=mutate_bytes, nasty=odd, share=3),
        read(
            name="params values", corpus=[json.dumps(params).encode()], read=_params_values, mutate=mutate_json, share=3
        ),
        read(
            name="params.yaml",
            corpus=[(ROOT / "params.yaml").read_bytes()],
            read=_params_yaml,
            mutate=mutate_bytes,
            nasty=_NASTY_YAML,
            share=2,
        ),
        read(
            name="presets",
            corpus=[*yaml, *(json.dumps(part).encode() for part in sections)],
            read=_preset,
            mutate=mutate_bytes,
            nasty=_NASTY_YAML,
            share=1,
        ),
        read(
            name="scenes grammar",
            corpus=[(ROOT / "assets/scenes/grammar.yaml").read_bytes()],
            read=_grammar,
            mutate=mutate_bytes,
            nasty=_NASTY_YAML,
            share=1,
        ),
        read(name="score JSON", corpus=_SCORES, read=_score, mutate=mutate_json, nasty=_NASTY_SCORES, share=3),
        read(
            name="JSON",
            corpus=[_VOCABULARY, _ROWS.split(b"\n")[0]],
            read=_whole,
            mutate=mutate_json,
            nasty=_NASTY_SCORES,
            share=4,
        ),
        read(name="JSON lines", corpus=[_ROWS], read=_lines, mutate=mutate_bytes, nasty=_NASTY_SCORES, share=4),
        read(
            name="vocabulary", corpus=[_VOCABULARY], read=_vocabulary, mutate=mutate_json, nasty=_NASTY_SCORES, share=3
        ),
        read(
            name="caption cleaning",
            corpus=[
                _TOKENS,
                _BIDI.encode(),
                *(unicodedata.normalize(form, text).encode() for form in ("NFC", "NFD") for text in _TEXTS),
            ],
            read=_cleaning,
            mutate=mutate_bytes,
            nasty=_UGLY_TEXTS,
            share=4,
        ),
        read(
            name="checkpoints", corpus=checkpoints, read=_checkpoint, mutate=_mutate_checkpoint, nasty=broken, share=4
        ),
        read(
            name="feature arrays",
            corpus=[pooled],
            read=lambda d, w: _store(d, _ABOUT, w),
            mutate=mutate_bytes,
            share=2,
            nasty=[
                b"",
                _npy(np.zeros(3)),
                _npy(np.zeros((2, 0))),
                _npy(np.zeros((2, 3), "M8[s]")),
                zipped({"a.npy": pooled}),
            ],
        ),
        read(
            name="feature store", corpus=[_ABOUT], read=lambda d, w: _store(pooled, d, w), mutate=mutate_json, share=2
        ),
        read(name="photos", corpus=_photos(), read=_photo, mutate=_mutate_photo, nasty=_HUGE, share=5),
        read(
            name="photos of a dataset",
            corpus=_photos(),
            read=_checked_photo,
            mutate=_mutate_photo,
            nasty=_HUGE,
            share=3,
        ),
    ]


def _mutate_texts(rng: Random, corpus: Sequence[bytes]) -> bytes:
    return mutate_bytes(rng, corpus) if rng.random() < 0.2 else _texts(mutate_bytes(rng, [_TOKENS]))
