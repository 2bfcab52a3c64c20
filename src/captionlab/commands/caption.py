"""What ``captionlab caption`` does: photos by name in, a line each on standard output, complaints on standard error.

Knows names and streams; reading and captioning is the captioner's.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from captionlab.commands.attention_map import TILE, attention_map
from captionlab.commands.caption_file import Journal
from captionlab.core import distributed
from captionlab.core.files import atomic_file
from captionlab.data.photos import SUFFIXES, Photo, read_upright
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner, Sentence
from captionlab.serving.registry import local_checkpoint

STDIN = "-"


@dataclass(frozen=True)
class Named:
    """A photo and what its user calls it."""

    name: str
    photo: Photo


def describe(
    names: Sequence[str],
    *,
    model: Path | None,
    beam: int | None,
    top: int | None,
    as_json: bool,
    attention: Path | None,
    out: Path | None = None,
) -> bool:
    """Print the captions of photos and folders of photos as they are made; returns whether all could be read.

    With ``out`` they go there as JSON, and the photos that it has are left out. Under torchrun each process does a
    share of the photos, and all return the same. A photo that cannot be read is a line on standard error. Raises
    CaptionlabError when there is nothing to do it with or when ``attention``, where the map of the one photo goes,
    cannot be drawn.
    """
    photos, empty = _collect(names)
    for folder in empty if distributed.is_main() else ():
        _complain(f"no photos in {folder}; known are {', '.join(sorted(SUFFIXES))}")
    if not photos:
        return False
    named = len(photos) > 1
    journal = Journal(out, [photo.name for photo in photos]) if out else None
    if journal:
        photos = list({photo.name: photo for photo in photos if photo.name not in journal.done}.values())
    say = journal.write if journal else _print
    photos = photos[distributed.rank() :: distributed.world_size()]
    unread = _describe(photos, say, model, beam, top, as_json or out is not None, attention, named) if photos else 0
    if journal:
        journal.close()
    return not any(distributed.all_reduce_sum(unread)) and not empty


def _describe(
    photos: Sequence[Named], say: Callable[[str], None], model: Path | None, beam: int | None, top: int | None,
    as_json: bool, attention: Path | None, named: bool,
) -> int:  # fmt: skip
    """Say the captions of the photos; returns how many photos could not be read."""
    with local_checkpoint(Path.cwd(), str(model)) if model else nullcontext() as path:
        captioner = Captioner.load(path)
    warnings.filterwarnings("ignore", module="PIL")  # what a photo's reader shrugs at is not the user's to mend
    unread = 0
    with tqdm(total=len(photos), unit="photo", disable=True if len(photos) == 1 else None, leave=False) as bar:
        for each, said in zip(photos, captioner.stream([each.photo for each in photos], beam=beam), strict=True):
            if isinstance(said, CaptionlabError):
                unread += 1
                with bar.external_write_mode():
                    _complain(f"{each.name}: {said}" if each.name == STDIN else str(said))
            else:
                with bar.external_write_mode():
                    for line in _lines(each.name, said, top, as_json, named):
                        say(line)
                if attention:
                    _draw(captioner, each.photo, said[0], attention)
            bar.update()
    return unread


def _collect(names: Sequence[str]) -> tuple[list[Named], list[str]]:
    """The photos, those of a folder and its folders sorted by name, and the folders that hold none."""
    photos: list[Named] = []
    empty = []
    for name in names:
        if name == STDIN:
            photos.append(Named(STDIN, sys.stdin.buffer.read()))
        elif Path(name).is_dir():
            inside = sorted(_walk(Path(name)))
            photos += [Named(_printable(path), path) for path in inside]
            if not inside:
                empty.append(_printable(Path(name)))
        else:
            photos.append(Named(_printable(Path(name)), Path(name)))
    return photos, empty


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _lines(name: str, said: Sequence[Sentence], top: int | None, as_json: bool, named: bool) -> Iterator[str]:
    if as_json:
        best, *others = (
            {"caption": sentence.caption, "log_prob": round(sentence.log_prob, 4)} for sentence in said[:top]
        )
        yield json.dumps({"image": name, **best, "alternatives": others}, ensure_ascii=False)
    else:
        yield from (f"{name}\t{sentence.caption}" if named else sentence.caption for sentence in said[: top or 1])


def _draw(captioner: Captioner, photo: Photo, sentence: Sentence, out: Path) -> None:
    weights_TR = captioner.attention(captioner.features([photo]), sentence.tokens)
    sheet = attention_map(read_upright(photo, TILE), sentence.caption.split(), weights_TR)
    with atomic_file(out) as temporary:
        sheet.save(temporary, "PNG")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")  # in one piece, or the lines of several processes would tear one another
    sys.stdout.flush()


def _complain(line: str) -> None:
    print(f"captionlab: {line}", file=sys.stderr, flush=True)


def _printable(path: Path) -> str:
    """The path; bytes of its name that are no text stand as escapes."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
