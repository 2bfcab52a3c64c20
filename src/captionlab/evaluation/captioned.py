"""The captions of one row of the comparison before they are scored, wherever they come from. Knows no scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from captionlab.core.records import Decoding, Given, Neighbours, Split
from captionlab.core.results.guests import GuestCaptions
from captionlab.evaluation.retrieval import Retrieved
from captionlab.inference.captioner import Sentence


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """One configuration's captions, before they are scored."""

    system: str
    name: str
    loss: float | None  # nats per word on the test split; None where there are no probabilities
    accuracy: float | None
    decodings: Sequence[Decoding | Neighbours | Given]
    sentences: Mapping[
        Split, Sequence[Mapping[str, Sentence | Retrieved]]
    ]  # by decoding and image; a guest's may lack val
    without_photo: Sequence[str | None]  # by decoding: the caption of the mean training photo; a guest has none

    @property
    def key(self) -> str:
        """The configuration as params.yaml and the commands spell it."""
        return f"{self.system}.{self.name}"

    def captions(self, split: Split, decoding: int) -> dict[str, str]:
        """Caption by image."""
        return {image: sentence.caption for image, sentence in self.sentences[split][decoding].items()}


def of_guest(name: str, guest: GuestCaptions) -> Captioned:
    """The captions that another captioner wrote."""
    sentences = {
        split: [{image: Retrieved(caption=caption) for image, caption in own.items()}]
        for split, own in guest.captions.items()
    }
    return Captioned(
        system="guests", name=name, loss=None, accuracy=None, decodings=[Given(source=guest.source)],
        sentences=sentences, without_photo=[None],
    )  # fmt: skip
