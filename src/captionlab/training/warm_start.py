"""Begin a training from the weights of another checkpoint of the same sizes, such as the released captioner.

Knows weights and vocabularies; nothing of files.
"""

import torch

from captionlab.data.vocab import Vocabulary
from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder
from captionlab.training.checkpoint import Checkpoint

_PER_WORD = ("embedding.weight", "out.weight", "out.bias")  # a row for each word
_WITH_BLOCKS = "decoder."  # what ``WithEncoder`` puts before them


@torch.no_grad()
def warm_start(model: Decoder, vocab: Vocabulary, start: Checkpoint) -> None:
    """Copy the weights of ``start`` into ``model``, and the standardisation of its features.

    Words that both vocabularies have keep their rows; a word that ``start`` lacks begins as the mean of all words.
    Raises CaptionlabError when the two have other layers or sizes.
    """
    own, theirs = model.state_dict(), start.model.state_dict()
    known = [(row, start.vocab.index[word]) for row, word in enumerate(vocab.words) if word in start.vocab.index]
    rows, places = (torch.tensor(column) for column in zip(*known, strict=True))
    for name, tensor in own.items():
        other, per_word = theirs.get(name), name.removeprefix(_WITH_BLOCKS) in _PER_WORD
        if other is None or other.shape[per_word:] != tensor.shape[per_word:]:
            raise CaptionlabError(
                f"warm_start: {name} has other sizes in {start.identity.system}.{start.identity.name}; use its "
                f"parameters: {start.identity.config}"
            )
        if per_word:
            tensor[:] = other.mean(0)
            tensor[rows] = other[places]
        else:
            tensor.copy_(other)
    model.load_state_dict(own)
