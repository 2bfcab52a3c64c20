"""Flickr8k as published: a zip of photos and a zip of texts.

Knows the two zips' layout and the numbers they must hold; what is amiss inside them is for ``checks`` to find.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from captionlab.core.files import sha256_of
from captionlab.core.records import Split
from captionlab.datasets import Found, Problem
from captionlab.datasets.archives import extract
from captionlab.datasets.downloading import cache_folder, download
from captionlab.errors import CaptionlabError

PHOTOS_ZIP = "Flickr8k_Dataset.zip"
TEXT_ZIP = "Flickr8k_text.zip"
_RELEASE = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
_URLS = {name: (f"{_RELEASE}/{name}",) for name in (PHOTOS_ZIP, TEXT_ZIP)}
_MD5 = {  # as the R package torchvision (mlverse/torchvision, R/dataset-flickr.R) checks them
    PHOTOS_ZIP: "f18a1e2920de5bd84dae7cf08ec78978",
    TEXT_ZIP: "bf6c1abcb8e4a833b7f922104de18627",
}

_TOKENS = "Flickr8k.token.txt"
_SPLIT_FILES: dict[Split, str] = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
# Of copies found in public repositories that agree with one another; the publisher gave none. So another digest is
# listed as a problem, and the counts decide.
_SHA256 = {
    _TOKENS: "1e1f3a371ba1a1bf742e6930521c037e046b2bf3fcc2390ba8405e0301ed7689",
    _SPLIT_FILES["train"]: "e330ddd5156a4c2d2e2b67bc587e70e588f2d132bd8a10dc54dcb71e58115d8e",
    _SPLIT_FILES["val"]: "18ba829f47f6df1cb830bf7f0506e2ddf333818925299babbd1bbcaf50fdc504",
    _SPLIT_FILES["test"]: "c0924146c131458ceba45da59670fe9520eadce1e5cafffa16a817672a9b1f17",
}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many there are of each."""

    photos: int
    captions: int
    train: int
    val: int
    test: int


# The captions are five for each photo and five for one that does not exist (2258277193_586949ec62.jpg.1).
PUBLISHED = Counts(photos=8_091, captions=40_460, train=6_000, val=1_000, test=1_000)


def flickr8k(source: Path, images: Path, published: Counts = PUBLISHED) -> Found:
    """Unpack the photos into ``images`` and read captions and splits.

    ``source`` is a folder that holds both zips; when it holds neither they are downloaded. Raises CaptionlabError
    when a zip is missing, damaged or unsafe, a text file cannot be read, or the counts are not the published ones.
    """
    missing = [name for name in (PHOTOS_ZIP, TEXT_ZIP) if not (source / name).is_file()]
    if len(missing) == 1:
        raise CaptionlabError(f"{source} has no {missing[0]}; put it there, or take both zips away to download them")
    folder = _downloaded() if missing else source
    with TemporaryDirectory() as temporary:
        texts = Path(temporary)
        extract(folder / TEXT_ZIP, texts, lambda member: member.name if member.name in _SHA256 else None)
        for name in _SHA256:
            if not (texts / name).is_file():
                raise CaptionlabError(f"{folder / TEXT_ZIP} holds no {name}; get the zip again")
        problems = [
            Problem(kind="unexpected digest", item=name, detail=f"SHA-256 {found}, not {known}; the counts decide")
            for name, known in _SHA256.items()
            if (found := sha256_of(texts / name)) != known
        ]
        captions = _captions(_text(texts / _TOKENS), problems)
        splits = {split: _text(texts / name).split() for split, name in _SPLIT_FILES.items()}
    photos = extract(folder / PHOTOS_ZIP, images, _photo_name)
    problems += [
        Problem(kind="duplicate photo", item=photo, detail=f"twice in {PHOTOS_ZIP}; the first is kept")
        for photo, count in sorted(Counter(photos).items())
        if count > 1
    ]
    counts = Counts(
        photos=len(set(photos)), captions=len(captions), **{split: len(set(names)) for split, names in splits.items()}
    )
    if counts != published:
        raise CaptionlabError(
            f"{folder} does not hold the published Flickr8k: {_said(counts)} instead of {_said(published)};"
            " get the zips again, or use dataset.format folder for photos of your own"
        )
    return Found(captions=captions, splits=splits, problems=problems)


def _downloaded() -> Path:
    folder = cache_folder() / "flickr8k"
    for name, urls in _URLS.items():
        download(urls, folder / name, md5=_MD5[name])
    return folder


def _photo_name(member: PurePosixPath) -> str | None:
    """Photos lie in ``Flicker8k_Dataset/``, spelt so; ``__MACOSX/`` repeats each name for a file that is no photo."""
    if "__MACOSX" in member.parts or member.name.startswith(".") or member.suffix.lower() != ".jpg":
        return None
    return member.name


def _captions(text: str, problems: list[Problem]) -> list[tuple[str, str]]:
    """Lines of ``photo#number<TAB>caption``; a repeated id goes to the problems."""
    captions: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        key, tab, caption = line.partition("\t")
        photo, mark, _ = key.rpartition("#")
        if not (tab and mark and photo):
            raise CaptionlabError(f"{_TOKENS}, line {number} is not photo#number, tab, caption; get the zip again")
        if key in captions:
            problems.append(Problem(kind="duplicate caption", item=key, detail="the first is kept"))
        else:
            captions[key] = (photo, caption)
    if not captions:
        raise CaptionlabError(f"{_TOKENS} holds no captions; get the zip again")
    return list(captions.values())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CaptionlabError(f"{path.name} is not UTF-8 text ({error}); get the zip again") from error


def _said(counts: Counts) -> str:
    return (
        f"{counts.photos:,} photos, {counts.captions:,} captions,"
        f" splits of {counts.train:,} / {counts.val:,} / {counts.test:,}"
    )
