"""Flickr8k as published: a zip of photos and a zip of texts, packed or unpacked.

Knows the layout and the published counts; ``checks`` checks the contents.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from captionlab.core.files import sha256_of
from captionlab.core.records import Split
from captionlab.core.results.judgments import JudgedCaption
from captionlab.datasets import Found, Problem
from captionlab.datasets.archives import extract
from captionlab.datasets.captions_file import token_captions
from captionlab.datasets.downloading import cache_folder, download
from captionlab.datasets.judgments import FILES as JUDGMENTS
from captionlab.datasets.judgments import read_judgments
from captionlab.datasets.layouts import other_format
from captionlab.datasets.reading import files_under, read_bytes, read_text
from captionlab.errors import CaptionlabError

PHOTOS_ZIP = "Flickr8k_Dataset.zip"
TEXT_ZIP = "Flickr8k_text.zip"
_RELEASE = "https://github.com/jbrownlee/Datasets/releases/download/Flickr8k"
_URLS = {name: (f"{_RELEASE}/{name}",) for name in (PHOTOS_ZIP, TEXT_ZIP)}
_MD5 = {  # from the R package torchvision (mlverse/torchvision, R/dataset-flickr.R)
    PHOTOS_ZIP: "f18a1e2920de5bd84dae7cf08ec78978",
    TEXT_ZIP: "bf6c1abcb8e4a833b7f922104de18627",
}

SPLIT_FILES: dict[Split, str] = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
PHOTO_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset")  # both spellings; the first is the publisher's
_TOKENS = "Flickr8k.token.txt"
# Of copies in public repositories, which agree; the publisher gave none. So another digest is only listed as a problem.
_SHA256 = {
    _TOKENS: "1e1f3a371ba1a1bf742e6930521c037e046b2bf3fcc2390ba8405e0301ed7689",
    SPLIT_FILES["train"]: "e330ddd5156a4c2d2e2b67bc587e70e588f2d132bd8a10dc54dcb71e58115d8e",
    SPLIT_FILES["val"]: "18ba829f47f6df1cb830bf7f0506e2ddf333818925299babbd1bbcaf50fdc504",
    SPLIT_FILES["test"]: "c0924146c131458ceba45da59670fe9520eadce1e5cafffa16a817672a9b1f17",
}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Number of photos, of captions, and of photos in each split."""

    photos: int
    captions: int
    train: int
    val: int
    test: int


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The contents of the zip or the folder of texts."""

    captions: list[tuple[str, str]]  # (photo, caption as written)
    splits: dict[Split, list[str]]
    judged: list[JudgedCaption]
    problems: list[Problem]

    @property
    def references(self) -> dict[str, list[str]]:
        """The captions of each photo."""
        return _by_photo(self.captions)


# Five captions for each photo, and five for one that does not exist (2258277193_586949ec62.jpg.1).
PUBLISHED = Counts(photos=8_091, captions=40_460, train=6_000, val=1_000, test=1_000)


def flickr8k(source: Path, images: Path, published: Counts = PUBLISHED) -> Found:
    """Copy the photos into ``images`` and read captions and splits.

    ``source`` is a folder with both zips or their contents; if it has neither, they are downloaded. Raises
    CaptionlabError if a part is missing, the folder has another format, a zip is damaged or unsafe, a file cannot be
    read, or the counts differ from the published ones.
    """
    photos, texts = _photos_in(source), _texts_in(source)
    if not photos and not texts:
        if other := other_format(source):  # instead of a download of a gigabyte
            raise CaptionlabError(f"{source} has no {PHOTOS_ZIP} and no {TEXT_ZIP}, but {other}")
        source = _downloaded()
        photos, texts = source / PHOTOS_ZIP, source / TEXT_ZIP
    if not photos or not texts:
        missing = f"photos ({PHOTOS_ZIP}, or {PHOTO_FOLDERS[0]})" if texts else f"captions ({TEXT_ZIP}, or {_TOKENS})"
        raise CaptionlabError(f"{source} has no {missing}; put them there, or remove the rest to download everything")
    read = _read_texts(texts)
    names = _copy(photos, images)
    problems = read.problems + [
        Problem(kind="duplicate photo", item=photo, detail=f"twice in {photos.name}; the first is kept")
        for photo, count in sorted(Counter(names).items())
        if count > 1
    ]
    counts = Counts(
        photos=len(set(names)), captions=len(read.captions),
        **{split: len(set(own)) for split, own in read.splits.items()},
    )  # fmt: skip
    if counts != published:
        raise CaptionlabError(
            f"{source} does not hold the published Flickr8k: {_described(counts)} instead of {_described(published)};"
            " get the zips again, or use dataset.format folder for photos of your own"
        )
    split_source = f"Flickr8k's own, from {', '.join(SPLIT_FILES.values())}"
    return Found(
        captions=read.captions, splits=read.splits, split_source=split_source, problems=problems, judged=read.judged
    )


def read_texts(source: Path) -> Texts:
    """Read the texts from a folder with their zip or its contents.

    Raises CaptionlabError if there are none or they are damaged.
    """
    texts = _texts_in(source)
    if texts is None:
        raise CaptionlabError(f"{source} has neither {TEXT_ZIP} nor {_TOKENS}; name the folder that holds one of them")
    return _read_texts(texts)


def copy_photos(source: Path, images: Path) -> None:
    """Copy the photos from a folder with their zip or its contents into ``images``."""
    photos = _photos_in(source)
    if photos is None:
        raise CaptionlabError(f"{source} has no {PHOTOS_ZIP}, and no folder {PHOTO_FOLDERS[0]}")
    _copy(photos, images)


def _photos_in(source: Path) -> Path | None:
    """The zip or the folder of photos in ``source``, if any."""
    if (source / PHOTOS_ZIP).is_file():
        return source / PHOTOS_ZIP
    return next((source / name for name in PHOTO_FOLDERS if (source / name).is_dir()), None)


def _texts_in(source: Path) -> Path | None:
    """The zip or the folder of texts in ``source``, if any."""
    if (source / TEXT_ZIP).is_file():
        return source / TEXT_ZIP
    return next((folder for folder in (source, source / "Flickr8k_text") if (folder / _TOKENS).is_file()), None)


def _downloaded() -> Path:
    folder = cache_folder() / "flickr8k"
    for name, urls in _URLS.items():
        download(urls, folder / name, md5=_MD5[name])
    return folder


def _copy(photos: Path, images: Path) -> list[str]:
    """Copy the photos of the zip or the folder into ``images``; returns all names, including repeated ones."""
    if photos.is_file():
        return extract(photos, images, lambda member: member.name if _is_photo(member) else None)
    files = [path for path in files_under(photos) if _is_photo(path)]
    for path in files:
        if not (images / path.name).exists():
            (images / path.name).write_bytes(read_bytes(path))
    return [path.name for path in files]


def _is_photo(path: PurePath) -> bool:
    """Whether a file is a photo; ``__MACOSX/`` has a file of the same name for each photo."""
    return "__MACOSX" not in path.parts and not path.name.startswith(".") and path.suffix.lower() == ".jpg"


def _read_texts(texts: Path) -> Texts:
    """Read the zip or the folder of texts."""
    if texts.is_dir():
        return _read_text_files(texts, texts)
    wanted = {*_SHA256, *JUDGMENTS.values()}
    with TemporaryDirectory() as temporary:
        extract(texts, Path(temporary), lambda member: member.name if member.name in wanted else None)
        return _read_text_files(Path(temporary), texts)


def _read_text_files(folder: Path, origin: Path) -> Texts:
    """Read the texts in ``folder``; errors name the files as if they were in ``origin``."""
    for name in _SHA256:
        if not (folder / name).is_file():
            raise CaptionlabError(f"{origin} has no {name}; get Flickr8k's texts again")
    contents = {name: read_text(folder / name, shown=origin / name) for name in _SHA256}
    captions, problems = token_captions(contents[_TOKENS], _TOKENS)
    problems += [
        Problem(kind="unexpected digest", item=name, detail=f"SHA-256 {found}, not {known}; the counts decide")
        for name, known in _SHA256.items()
        if (found := sha256_of(folder / name)) != known
    ]
    lines = (line.partition("\t") for line in contents[_TOKENS].split("\n") if line.strip())
    by_id = {key: caption for key, _, caption in lines}
    judged, broken = read_judgments(folder, by_id, _by_photo(captions))
    return Texts(
        captions=captions, splits={split: contents[name].split() for split, name in SPLIT_FILES.items()},
        judged=judged, problems=problems + broken,
    )  # fmt: skip


def _by_photo(captions: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for photo, caption in captions:
        found.setdefault(photo, []).append(caption)
    return found


def _described(counts: Counts) -> str:
    return (
        f"{counts.photos:,} photos, {counts.captions:,} captions,"
        f" splits of {counts.train:,} / {counts.val:,} / {counts.test:,}"
    )
