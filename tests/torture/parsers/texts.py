"""Readers of params.yaml, presets, the scenes' grammar, score's files, JSON, vocabularies and captions."""

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from captionlab.commands.preset import apply_preset
from captionlab.commands.score import score_files
from captionlab.config import Params, load_params
from captionlab.core.files import read_json, read_jsonl
from captionlab.core.records import LONGEST_CAPTION
from captionlab.core.validation import validate
from captionlab.data.caption_formats import captions_by_split
from captionlab.data.text import CLEANINGS, clean
from captionlab.data.vocab import Vocabulary
from captionlab.datasets.scenes import scene_words
from captionlab.errors import CaptionlabError
from torture.fuzz import Parser, mutate_bytes, mutate_json
from torture.parsers.inputs import BAD_JSON, BAD_TEXTS, BIDI, MEGABYTE, ROOT, TOKENS, pair


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


_BILLION_LAUGHS = ("device: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"k{i}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)).encode()  # fmt: skip
_BAD_YAML = (
    *(_BILLION_LAUGHS, b"a: &a [&b [&c [*a]]]", b"device: 0x" + b"f" * 5000, b"device: &a {<<: *a}", b"\xff"),
    b"", b"\0",
    b"a: " + b"[" * 5000, b"{" * 5000, b"device: " + b"9" * 6000, b"? " * 5000, b"- " * 5000, b"device: !!binary x",
    b"device: " + b"a" * MEGABYTE, b"device: [&a [x,x,x,x,x,x,x,x,x], " + b", ".join(
        b"&%c [%s]" % (98 + i, b", ".join([b"*%c" % (97 + i)] * 9)) for i in range(8)) + b"]",
)  # fmt: skip


def _score(data: bytes, work: Path) -> None:
    """Split a JSON object into references and hypotheses; use other bytes for both files."""
    references, hypotheses = work / "refs.json", work / "hyps.json"
    try:
        both = json.loads(data)
        texts = [json.dumps(both[key]).encode() for key in ("references", "hypotheses")]
    except (ValueError, RecursionError, TypeError, KeyError):
        texts = [data, data]
    for path, text in zip((references, hypotheses), texts, strict=True):
        path.write_bytes(text)
    score_files(references, hypotheses)


_SCORES = (
    pair({"1": ["A dog runs .", "a man"], "2": ["two dogs", BIDI]}, {"1": "a dog", "2": "two cats"}),
    pair({"a": ["x y z w v"]}, {"a": ""}),
    pair({"annotations": [{"image_id": 1, "caption": "A dog"}], "images": [{"id": 1, "file_name": "a"}]}, {"1": "a"}),
    pair({"images": [{"split": "test", "filename": "a", "sentences": [{"raw": "A dog"}], "cocoid": 1}]}, {"a": "a"}),
)


def _guest(data: bytes, work: Path) -> None:
    path = work / "captions.json"
    path.write_bytes(data)
    captions_by_split(path, {"val": ["b.jpg"], "test": ["a.jpg", "COCO_val2014_000000000042.jpg"]})


_GUESTS = (
    b'{"a.jpg": "A dog", "42": "two cats"}',
    b'{"a": ["A dog"], "COCO_val2014_000000000042": "two cats", "b.jpg": ""}',
    b'[{"image_id": 42, "caption": "A dog"}, {"image_id": "a", "caption": "two cats"}]',
    b'{"image": "photos/a.jpg", "caption": "A dog"}\n{"image": "COCO_val2014_000000000042.jpg", "caption": "cats"}\n',
)
_ROWS = b'{"image": "a.jpg", "split": "train", "captions": ["A", "\xc3\xa9"]}\n{"image": "b", "n": [1, 2.5, null]}\n'
VOCABULARY = b'{"cleaning": "standard", "min_count": 3, "words": ["<pad>", "<start>", "<end>", "<unk>", "dog", "a"]}'


def _lines(data: bytes, work: Path) -> None:
    path = work / "rows.jsonl"
    path.write_bytes(data)
    read_jsonl(path)


def _json_file(data: bytes, work: Path) -> None:
    path = work / "value.json"
    path.write_bytes(data)
    read_json(path)


def _vocabulary(data: bytes, work: Path) -> None:
    path = work / "vocab.json"
    path.write_bytes(data)
    vocabulary = Vocabulary.from_json(read_json(path), str(path))
    vocabulary.decode(vocabulary.encode(["dog", "unknown"]))


_TEXTS = ("Ein Hund läuft, 3 Bälle!", "Một chú chó ❤️", "一只狗在跑。 ที่ 한국어")


def _cleaning(data: bytes, work: Path) -> None:
    """Clean any text: words must not be empty or contain blanks, and both Unicode forms must give the same words."""
    text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")[:LONGEST_CAPTION]
    for cleaning in CLEANINGS:
        words = clean(text, cleaning)  # type: ignore[arg-type]
        assert all(words)
        assert words == clean(unicodedata.normalize("NFD", text), cleaning)  # type: ignore[arg-type]
        if cleaning != "report_b":
            assert all(word.split() == [word] for word in words)


def parsers() -> list[Parser]:
    """Every reader of parameters and texts."""
    params = _small_params()
    sections = [{key: params[key]} for key in ("dataset", "training", "baseline", "attention", "evaluate")]
    presets = [(ROOT / "presets" / name).read_bytes() for name in ("report_a_lite.yaml", "image_places.yaml")]
    presets += [json.dumps(part).encode() for part in sections]
    grammar = (ROOT / "assets/scenes/grammar.yaml").read_bytes()
    texts = [unicodedata.normalize(form, text).encode() for form in ("NFC", "NFD") for text in _TEXTS]
    return [
        Parser(
            name="params values", corpus=[json.dumps(params).encode()], read=_params_values, mutate=mutate_json, share=3
        ),
        Parser(
            name="params.yaml", corpus=[(ROOT / "params.yaml").read_bytes()], read=_params_yaml, mutate=mutate_bytes,
            special=_BAD_YAML, share=2,
        ),
        Parser(name="presets", corpus=presets, read=_preset, mutate=mutate_bytes, special=_BAD_YAML, share=1),
        Parser(name="scenes grammar", corpus=[grammar], read=_grammar, mutate=mutate_bytes, special=_BAD_YAML, share=1),
        Parser(name="score JSON", corpus=_SCORES, read=_score, mutate=mutate_json, special=BAD_JSON, share=3),
        Parser(name="guests", corpus=_GUESTS, read=_guest, mutate=mutate_bytes, special=BAD_JSON, share=2),
        Parser(
            name="JSON", corpus=[VOCABULARY, _ROWS.split(b"\n")[0]], read=_json_file, mutate=mutate_json,
            special=BAD_JSON, share=4,
        ),
        Parser(name="JSON lines", corpus=[_ROWS], read=_lines, mutate=mutate_bytes, special=BAD_JSON, share=4),
        Parser(
            name="vocabulary", corpus=[VOCABULARY], read=_vocabulary, mutate=mutate_json, special=BAD_JSON, share=3
        ),
        Parser(
            name="caption cleaning", corpus=[TOKENS, BIDI.encode(), *texts], read=_cleaning, mutate=mutate_bytes,
            special=BAD_TEXTS, share=4,
        ),
    ]  # fmt: skip
