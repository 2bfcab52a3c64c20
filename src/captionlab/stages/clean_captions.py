"""Stage ``clean_captions``: split the raw captions into words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from captionlab.config import Params
from captionlab.core.files import write_json
from captionlab.core.records import CAPTIONS, SPLITS, Caption, CaptionedImage, Split
from captionlab.core.results.dataset import iter_dataset, write_cleaned
from captionlab.data.text import Cleaning, clean, is_unsplit
from captionlab.errors import CaptionlabError, some_of

_MOST_SINGLE = 0.5  # of the captions may be one word before a warning


@dataclass
class _Found:
    """What is counted while the captions are written one by one."""

    captions: int = 0
    changed: int = 0
    dropped: int = 0
    longest: int = 0
    single: int = 0  # captions of one word, or of whole phrases as words
    example: str = ""  # the first word of the first of these
    wordless: dict[Split, list[str]] = field(default_factory=lambda: {split: [] for split in SPLITS})  # photos

    def add(self, photo: CaptionedImage, cleaned: Sequence[Caption]) -> None:
        """Count the captions of one photo."""
        if cleaned and not any(caption.words for caption in cleaned):
            self.wordless[photo.split].append(photo.image)
        for caption in cleaned:
            self.captions += 1
            self.changed += " ".join(caption.words) != caption.raw
            self.dropped += not caption.words
            self.longest = max(self.longest, len(caption.words))
            if len(caption.words) == 1 or is_unsplit(caption.words):
                self.single += 1
                self.example = self.example or caption.words[0]


def clean_captions(params: Params, root: Path) -> list[str]:
    """Clean every caption of every split. A caption without words stays in the file, with an empty list.

    The returned lines warn of training photos without words, and if most captions are one word. Raises CaptionlabError
    for a validation or test photo without words: it cannot be scored.
    """
    cleaning = params.clean_captions.cleaning
    found = _Found()
    write_cleaned(root, _cleaned(root, cleaning, found))
    summary = {key: getattr(found, key) for key in ("captions", "changed", "dropped", "longest")}
    write_json((root / CAPTIONS).with_name("summary.json"), summary)
    return [
        f"clean_captions: {found.captions:,} captions cleaned ({cleaning}): {found.changed:,} changed,"
        f" {found.dropped:,} dropped; the longest has {found.longest} words",
        *(f"clean_captions: {warning}" for warning in (*_wordless(found, ("train",), cleaning), *_single(found))),
    ]


def _cleaned(root: Path, cleaning: Cleaning, found: _Found) -> Iterator[Caption]:
    for photo in iter_dataset(root):
        cleaned = [
            Caption(image=photo.image, split=photo.split, raw=raw, words=clean(raw, cleaning)) for raw in photo.captions
        ]
        found.add(photo, cleaned)
        yield from cleaned
    if wordless := _wordless(found, ("val", "test"), cleaning):
        raise CaptionlabError(wordless[0])  # the file is written as a whole or not at all


def _wordless(found: _Found, splits: Sequence[Split], cleaning: str) -> list[str]:
    """A message that names the photos without words in these splits, if there are any."""
    without = sorted(image for split in splits for image in found.wordless[split])
    if not without:
        return []
    return [
        f"{' and '.join(splits)} photos without words under the cleaning {cleaning}: {len(without):,}"
        f" ({some_of(without)}); change their captions, or choose another clean_captions.cleaning"
    ]


def _single(found: _Found) -> list[str]:
    """A warning that most captions are one word or whole phrases, if they are: BLEU-2 to 4 of such captions are 0."""
    if found.single <= _MOST_SINGLE * found.captions:
        return []
    return [
        f"{found.single:,} of {found.captions:,} captions are one word or have whole phrases as words, such as"
        f" {found.example!r}; for a language written without spaces set clean_captions.cleaning to characters"
    ]
