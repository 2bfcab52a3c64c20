"""Matching of the photo names in captions files with the photos of a folder."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from captionlab.data.photos import SUFFIXES, skipped_formats
from captionlab.data.text import nfc
from captionlab.datasets import Problem
from captionlab.datasets.reading import NAME_BYTES, entries, files_under, linked_folders, photos_among
from captionlab.errors import CaptionlabError, some_of

_LONGEST = 4096  # characters of a path on most systems; normalising a megabyte of accents would take hours
_NUMBER = re.compile(r"#\d+$")  # caption number after a photo's name: a.jpg#0


class PhotoNames:
    """The photos of a folder and its subfolders, each with a unique name.

    A photo's name is its file name in NFC. If several subfolders have files of the same name, the name is the relative
    path with ``__`` for each slash. Raises CaptionlabError if a name is too long for a file.
    """

    def __init__(self, folder: Path, files: Sequence[Path]) -> None:
        self.folder = folder
        self.files: dict[str, Path] = {}  # by name
        self.problems: list[Problem] = []  # photos that are left out because another has the same name
        self._names: dict[str, str] = {}  # by relative path
        paths = [_as_text(path.relative_to(folder)) for path in files]
        owners = Counter(map(_last, paths))
        for path, file in zip(paths, files, strict=True):
            name = _last(path) if owners[_last(path)] == 1 else path.replace("/", "__")
            if (size := len(name.encode())) > NAME_BYTES:
                raise CaptionlabError(
                    f"{folder}: the name of the photo {path} would have {size} bytes with its folders, more than"
                    f" {NAME_BYTES}; shorten the names of the photo or its folders"
                )
            if name in self.files:
                self.problems.append(Problem(kind="two photos of one name", item=name, detail=f"{path} is left out"))
            else:
                self.files[name] = file
                self._names[path] = name

    def find(self, written: str) -> str:
        """The name of the photo that ``written`` refers to; ``written`` itself if there is none or it is ambiguous.

        Folders may be missing or added, as in ``Images/a.jpg`` or ``C:\\\\Images\\\\a.jpg``; the suffix may be
        missing or in capitals, as in ``a`` or ``a.JPG``; a caption number may follow, as in ``a.jpg#0``.
        """
        if len(written) > _LONGEST:
            return written
        written = nfc(written)
        if written in self.files:
            return written
        for text in (written, _NUMBER.sub("", written)):
            path = "/".join(part for part in text.replace("\\", "/").split("/") if part not in ("", "."))
            for form in self._forms:
                if name := form.find(path):
                    return name
        return written

    def find_each(self, written: Iterable[str]) -> dict[str, str]:
        """The result of ``find`` for each name.

        Paths that differ in their folders, as ``cats/1.jpg`` and ``dogs/1.jpg``, do not mean one photo: of those only a
        photo's own path is found.
        """
        found = {text: self.find(text) for text in dict.fromkeys(written)}
        paths: dict[str, set[str]] = {}
        for text, name in found.items():
            paths.setdefault(name, set()).add(_plain(text))
        unclear = set()
        for name, own in paths.items():
            longest = f"/{max(own, key=len)}"
            if not all(longest.endswith(f"/{path}") for path in own):
                unclear.add(name)
        return {
            text: name if name not in unclear or "/" not in _plain(text) or text in self._names else text
            for text, name in found.items()
        }

    def ambiguous(self, unfound: Iterable[str]) -> list[str]:
        """A note on those of the names without a photo that could mean several photos; empty if there are none."""
        unfound = dict.fromkeys(unfound)
        if not unfound:  # as usual; the paths of all photos would be read for nothing
            return []
        owners = Counter(end for path in self._names for end in _ends(_plain(path)))
        names = [text for text in unfound if owners[_plain(text)] > 1]
        if not names:
            return []
        return [f"{len(names):,} names could mean several photos ({some_of(names)}); write their folders and suffixes"]

    @cached_property
    def _forms(self) -> "tuple[_Form, ...]":
        """The comparisons of names, from strict to loose."""
        return (
            _Form(self._names, str, str),
            _Form(self._names, str.casefold, str.casefold),
            _Form(self._names, lambda path: _without_suffix(path.casefold()), str.casefold),
        )


def find_photos(source: Path) -> tuple[PhotoNames, list[str]]:
    """The photos in ``Images/`` of a dataset's folder, or else in the folder itself, including subfolders.

    Also returns messages with the number of photos in unsupported formats and with the links to folders, if any. Raises
    CaptionlabError if there is no photo, and if ``Images`` is a link.
    """
    notes: list[str] = []
    for place in [*(path for path in entries(source) if path.name.lower() == "images"), source]:
        if place != source and place.is_symlink() and place.is_dir():
            raise CaptionlabError(
                f"{place} is a link to a folder, of which DVC would not see changes; set dataset.source to"
                f" {place.resolve()}, with the captions in it, or move the photos here"
            )
        files = files_under(place) if place.is_dir() else []
        names, notes = PhotoNames(place, photos_among(files)), []
        if skipped := skipped_formats(files):
            notes.append(skipped)
        if linked := [path.relative_to(source).as_posix() for path in linked_folders(place)]:
            notes.append(
                f"links to folders ({some_of(linked)}) are not followed, because DVC would not see changes of photos"
                " there"
            )
        if names.files:
            return names, notes
    advice = "".join(f"; {note}" for note in notes)
    raise CaptionlabError(f"{source} has no photos ({', '.join(sorted(SUFFIXES))}){advice}; put them there")


class _Form:
    """One comparison of paths, each normalised by ``of_photo`` or ``of_written``."""

    def __init__(
        self, names: Mapping[str, str], of_photo: Callable[[str], str], of_written: Callable[[str], str]
    ) -> None:
        self._whole = _unambiguous((of_photo(path), name) for path, name in names.items())
        self._ends = _unambiguous((end, name) for path, name in names.items() for end in _ends(of_photo(path)))
        self._of_written = of_written

    def find(self, path: str) -> str | None:
        """The photo whose path equals ``path``, ends with it, or is the end of it."""
        sought = self._of_written(path)
        matches = (self._whole.get(sought), self._ends.get(sought), *map(self._whole.get, _ends(sought)))
        return next((name for name in matches if name), None)


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The pairs as a dict, without keys that have several names."""
    names: dict[str, str | None] = {}
    for key, name in pairs:
        names[key] = name if names.get(key, name) == name else None
    return {key: name for key, name in names.items() if name is not None}


def _ends(path: str) -> list[str]:
    """The path, and the path without its first folder, without its first two folders, and so on."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _plain(written: str) -> str:
    """A written path without its number, its suffix and differences in slashes and capitals."""
    if len(written) > _LONGEST:
        return written
    path = _NUMBER.sub("", nfc(written)).replace("\\", "/").casefold()
    return _without_suffix("/".join(part for part in path.split("/") if part not in ("", ".")))


def _without_suffix(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return stem if f"{dot}{suffix}" in SUFFIXES else path


def _as_text(path: Path) -> str:
    """The path in NFC; bytes that are not valid text are escaped."""
    return nfc(path.as_posix().encode(errors="surrogateescape").decode(errors="backslashreplace"))
