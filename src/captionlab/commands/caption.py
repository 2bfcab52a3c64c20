"""What ``captionlab caption`` does: photos by name in, captions on standard output or in a file.

Knows names and streams; the captioner reads and captions the photos.
"""

import dataclasses
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from captionlab.commands.attention_map import TILE, attention_map
from captionlab.commands.caption_file import CaptionFile
from captionlab.commands.named import load_captioner, names_no_checkpoint
from captionlab.core import distributed
from captionlab.core.files import atomic_file, through_link
from captionlab.core.output import json_line
from captionlab.data.photos import SUFFIXES, Photo, read_upright, skipped_formats
from captionlab.errors import CaptionlabError, printable
from captionlab.inference.captioner import Captioner, EnsembleCaptioner, Sentence

if TYPE_CHECKING:
    from captionlab.evaluation.retrieval import Retrieved
    from captionlab.evaluation.rows import RowCaptioner

    AnyCaptioner = Captioner | EnsembleCaptioner | RowCaptioner

STDIN = "-"
_PNG = b"\x89PNG\r\n\x1a\n"  # what every PNG begins with


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command's options, as its help describes them."""

    model: str | None = None
    decoding: Mapping[str, float] = dataclasses.field(default_factory=dict)  # replaces parts of the chosen one
    top: int | None = None
    as_json: bool = False
    attention: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Named:
    """A photo and what its user calls it."""

    name: str
    photo: Photo


@dataclass(frozen=True)
class FoundPhotos:
    """What the command's names stand for."""

    photos: list[Named]
    others: list[Path]  # files in folders that are not photos
    faults: list[str]  # folders without photos, and folders that cannot be read


def caption_photos(names: Sequence[str], options: Options) -> bool:
    """Caption photos and folders of photos; returns whether all could be read.

    Captions are printed as they are made, or written to ``options.out`` as JSON lines, where photos that it has are
    left out. Under torchrun each process does a share of the photos, and all return the same. A photo that cannot be
    read is a line on standard error. Raises CaptionlabError when the model cannot be loaded, when ``options.out`` is
    not a file of its captions, and when ``options.attention`` is asked of several photos or of a model without it, or
    is the photo itself or another file that is no PNG.
    """
    if options.attention:
        options = dataclasses.replace(options, attention=through_link(options.attention))
    found = _find(names)
    if distributed.is_main():
        for line in filter(None, [skipped_formats(found.others), *found.faults]):
            _complain(line)
    if not found.photos:
        return False
    if options.attention and len(found.photos) > 1:
        raise CaptionlabError(f"--attention needs exactly one photo, not {len(found.photos):,}")
    if options.attention:
        _check_replaceable(options.attention, found.photos[0].photo)
    captioner = _load(options.model)
    if options.attention and not isinstance(captioner, Captioner):
        raise CaptionlabError(f"{options.model} has no attention to show")
    if options.decoding:
        changes: dict[str, Any] = {**options.decoding}
        try:
            captioner.decoding_with(**changes)
        except ValueError as error:
            raise CaptionlabError(str(error)) from None
    file = None
    photos = found.photos
    if options.out:
        file = CaptionFile(options.out, [photo.name for photo in photos], _source(captioner, options.decoding))
        photos = list({photo.name: photo for photo in photos if photo.name not in file.done}.values())
    printer = _Printer(options, file, named=len(found.photos) > 1)
    unread = _caption(captioner, photos[distributed.rank() :: distributed.world_size()], options, printer)
    if file:
        file.close()
    return not any(distributed.all_reduce_sum(unread)) and not found.faults


def _load(model: str | None) -> "AnyCaptioner":
    if model and names_no_checkpoint(model):
        from captionlab.evaluation.rows import RowCaptioner

        return RowCaptioner.load(Path.cwd(), model)
    return load_captioner(model)


@dataclass(frozen=True)
class _Printer:
    """Writes the captions of one photo, as lines or as JSON."""

    options: Options
    file: CaptionFile | None
    named: bool  # whether a line begins with the photo's name

    def write(self, name: str, sentences: "Sequence[Sentence | Retrieved]") -> None:
        top = self.options.top
        if self.file:
            self.file.write(_row(name, sentences[:top]))
        elif self.options.as_json:
            _print(json_line(_row(name, sentences[:top])))
        else:
            for sentence in sentences[: top or 1]:
                _print(f"{printable(name)}\t{sentence.caption}" if self.named else sentence.caption)


def _caption(captioner: "AnyCaptioner", photos: Sequence[Named], options: Options, printer: _Printer) -> int:
    """Caption the photos; returns how many could not be read."""
    warnings.filterwarnings("ignore", module="PIL")  # about photos that it reads all the same
    unread = 0
    with tqdm(total=len(photos), unit="photo", disable=True if len(photos) <= 1 else None, leave=False) as bar:
        stream = captioner.stream([each.photo for each in photos], **options.decoding)
        for each, sentences in zip(photos, stream, strict=True):
            with bar.external_write_mode():
                if isinstance(sentences, CaptionlabError):
                    unread += 1
                    _complain(f"{STDIN}: {sentences}" if each.name == STDIN else str(sentences))
                else:
                    printer.write(each.name, sentences)
            if options.attention and isinstance(captioner, Captioner) and not isinstance(sentences, CaptionlabError):
                _draw(captioner, each.photo, sentences[0], options.attention)
            bar.update()
    return unread


def _source(captioner: "AnyCaptioner", changes: Mapping[str, float]) -> dict[str, str]:
    """Which model captions, and how it decodes, as a file of captions says it."""
    decoding = dataclasses.replace(captioner.decoding, **changes)  # type: ignore[arg-type]
    return {"model": captioner.label, "decoding": decoding.full_label}


def _find(names: Sequence[str]) -> FoundPhotos:
    """The photos, those of a folder and its subfolders sorted by name."""
    found = FoundPhotos([], [], [])
    for name in names:
        path = Path(name)
        if name == STDIN:
            found.photos.append(Named(STDIN, sys.stdin.buffer.read()))
        elif os.path.isdir(path):  # Path.is_dir raises an error where the folder above may not be entered
            files = sorted(_walk(path, found.faults))
            photos = [Named(_decodable(file), file) for file in files if file.suffix.lower() in SUFFIXES]
            found.photos.extend(photos)
            found.others.extend(file for file in files if file.suffix.lower() not in SUFFIXES)
            if not photos:
                found.faults.append(f"no photos in {printable(name)}; formats are {', '.join(sorted(SUFFIXES))}")
        else:
            found.photos.append(Named(_decodable(path), path))
    return found


def _walk(folder: Path, faults: list[str]) -> Iterator[Path]:
    """The folder's files, without hidden ones and those in hidden folders; what cannot be read is a fault.

    Links are followed, to each folder once.
    """

    def unreadable(error: OSError) -> None:
        faults.append(f"cannot read {printable(str(error.filename))}: {error.strerror}")

    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        visible = [name for name in sorted(folders) if not name.startswith(".") and name != "__MACOSX"]
        folders.clear()
        for name in visible:
            if (real := os.path.realpath(os.path.join(place, name))) not in seen:
                seen.add(real)
                folders.append(name)
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _row(name: str, sentences: "Sequence[Sentence | Retrieved]") -> dict[str, Any]:
    best, *others = (
        {"caption": each.caption} | ({} if each.log_prob is None else {"log_prob": round(each.log_prob, 4)})
        for each in sentences
    )
    return {"image": name, **best, "alternatives": others}


def _check_replaceable(out: Path, photo: Photo) -> None:
    """Raise CaptionlabError where the sheet would replace the photo, or a file that is no sheet."""
    try:
        if isinstance(photo, Path) and out.samefile(photo):
            raise CaptionlabError(f"--attention would replace the photo {out}; name another file")
        with out.open("rb") as file:
            begin = file.read(len(_PNG))
    except FileNotFoundError:
        return
    except OSError as error:
        raise CaptionlabError(f"cannot read {out}: {error.strerror}; name another file") from error
    if begin not in (b"", _PNG):  # an empty file, as mktemp makes one, loses nothing
        raise CaptionlabError(f"--attention would replace {out}, which is not a PNG; name another file")


def _draw(captioner: Captioner, photo: Photo, sentence: "Sentence | Retrieved", out: Path) -> None:
    weights_TR = captioner.attention(captioner.features([photo]), sentence.tokens)
    sheet = attention_map(read_upright(photo, TILE), sentence.caption.split(), weights_TR)
    with atomic_file(out) as temporary:
        sheet.save(temporary, "PNG")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")  # in one call, so that lines of several processes do not mix
    sys.stdout.flush()


def _complain(line: str) -> None:
    print(f"captionlab: {line}", file=sys.stderr, flush=True)


def _decodable(path: Path) -> str:
    """The path as text; bytes of its name that are not valid text are escaped."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
