"""Stage ``clean_captions``: split the raw captions into words."""

from collections.abc import Sequence
from pathlib import Path

from captionlab.config import Params
from captionlab.core.files import write_json
from captionlab.core.records import CAPTIONS, Caption, Split
from captionlab.core.results.dataset import iter_dataset, write_cleaned
from captionlab.data.text import clean, is_unsplit
from captionlab.errors import CaptionlabError, some_of

_MOST_SINGLE = 0.5  # of the captions may be one word before a warning


def clean_captions(params: Params, root: Path) -> list[str]:
    """Clean every caption of every split. A caption without words stays in the file, with an empty list.

    The returned lines warn of training photos without words, and if most captions are one word. Raises CaptionlabError
    for a validation or test photo without words: it cannot be scored.
    """
    cleaning = params.clean_captions.cleaning
    captions = [
        Caption(image=photo.image, split=photo.split, raw=raw, words=clean(raw, cleaning))
        for photo in iter_dataset(root)
        for raw in photo.captions
    ]
    if wordless := _wordless(captions, ("val", "test"), cleaning):
        raise CaptionlabError(wordless[0])
    summary = {
        "captions": len(captions),
        "changed": sum(" ".join(caption.words) != caption.raw for caption in captions),
        "dropped": sum(not caption.words for caption in captions),
        "longest": max((len(caption.words) for caption in captions), default=0),
    }
    write_cleaned(root, captions)
    write_json((root / CAPTIONS).with_name("summary.json"), summary)
    return [
        f"clean_captions: {summary['captions']:,} captions cleaned ({cleaning}): {summary['changed']:,} changed,"
        f" {summary['dropped']:,} dropped; the longest has {summary['longest']} words",
        *(f"clean_captions: {warning}" for warning in (*_wordless(captions, ("train",), cleaning), *_single(captions))),
    ]


def _wordless(captions: Sequence[Caption], splits: Sequence[Split], cleaning: str) -> list[str]:
    """A message that names the photos without words in these splits, if there are any."""
    with_words = {caption.image for caption in captions if caption.words}
    without = sorted({caption.image for caption in captions if caption.split in splits} - with_words)
    if not without:
        return []
    return [
        f"{' and '.join(splits)} photos without words under the cleaning {cleaning}: {len(without):,}"
        f" ({some_of(without)}); change their captions, or choose another clean_captions.cleaning"
    ]


def _single(captions: Sequence[Caption]) -> list[str]:
    """A warning that most captions are one word or whole phrases, if they are: BLEU-2 to 4 of such captions are 0."""
    single = [caption for caption in captions if len(caption.words) == 1 or is_unsplit(caption.words)]
    if len(single) <= _MOST_SINGLE * len(captions):
        return []
    return [
        f"{len(single):,} of {len(captions):,} captions are one word or have whole phrases as words, such as"
        f" {single[0].words[0]!r}; for a language written without spaces set clean_captions.cleaning to characters"
    ]
