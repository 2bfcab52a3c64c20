"""Further training by cross-entropy alone, stopped by the CIDEr-D of the validation captions. Knows losses only."""

from torch import Tensor

from captionlab.finetuning.validation import ValidationCider
from captionlab.models.base import Decoder
from captionlab.training.batches import Batch


class Continued:
    """Leaves the loss of ``training.train`` as it is."""

    own_loss = False

    def __init__(self, validation: ValidationCider) -> None:
        self.validation = validation

    def loss(self, model: Decoder, batch: Batch, logits_NV: Tensor, cross_entropy: Tensor) -> tuple[Tensor, None]:
        """The cross-entropy itself; there is no reward."""
        return cross_entropy, None
