"""Further training by cross-entropy alone, stopped by the CIDEr-D of the validation captions. Knows losses only."""

from captionlab.finetuning.validation import ValidationCider


class Continued:
    """Leaves the loss of ``training.train`` as it is."""

    loss = None

    def __init__(self, validation: ValidationCider) -> None:
        self.validation = validation
