"""Stage ``build_vocab``: the words of the training captions, and how much of the other splits they cover."""

from collections.abc import Iterator
from pathlib import Path

from captionlab.config import Params
from captionlab.core.files import write_json
from captionlab.core.records import RELEASED, SPLITS, VOCAB, Split
from captionlab.core.results.dataset import iter_cleaned
from captionlab.core.tokens import SPECIALS
from captionlab.data.vocab import Vocabulary, read_words


def build_vocab(params: Params, root: Path) -> list[str]:
    """Count the words of the training captions only: those of validation and test must stay unknown."""

    def words(split: Split) -> Iterator[tuple[str, ...]]:
        return (caption.words for caption in iter_cleaned(root) if caption.split == split)

    min_count = params.build_vocab.min_count
    vocabulary = Vocabulary.build(words("train"), cleaning=params.clean_captions.cleaning, min_count=min_count)
    if params.build_vocab.released_words:
        vocabulary = vocabulary.with_words(read_words(RELEASED))
    coverage = {split: round(vocabulary.coverage(words(split)), 6) for split in SPLITS}
    write_json(root / VOCAB, vocabulary.to_json())
    write_json((root / VOCAB).with_name("coverage.json"), {"size": len(vocabulary), **coverage})
    released = " or that the released captioner knows" if params.build_vocab.released_words else ""
    shares = ", ".join(f"{share:.1%} of {split}" for split, share in coverage.items())
    return [
        f"build_vocab: {len(vocabulary) - len(SPECIALS):,} words that occur at least {min_count} times"
        f"{released}, and {len(SPECIALS)} special tokens; they cover {shares}"
    ]
