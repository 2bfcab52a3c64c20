"""The references that fine-tuning compares its validation captions with."""

from captionlab.core.records import Caption
from captionlab.finetuning.validation import references_of


def test_references_are_cleaned_as_the_strict_protocol_does() -> None:
    """Whatever the system's own words are: languages written without spaces are split into characters."""
    captions = [
        Caption(image="a.jpg", split="val", raw="A dog, running !", words=("<unk>",)),
        Caption(image="a.jpg", split="val", raw="\u4e00\u53ea\u72d7", words=("\u4e00\u53ea\u72d7",)),
        Caption(image="b.jpg", split="train", raw="A cat .", words=("a", "cat")),
    ]
    assert references_of(captions, "val") == {"a.jpg": [("a", "dog", "running"), ("\u4e00", "\u53ea", "\u72d7")]}
