"""Captions by an image-to-text model of the library transformers, such as BLIP or GIT. Photos in, captions out.

Weights are read from a folder or from the Hugging Face cache and never downloaded here.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from captionlab.core.params import ImageToTextParams
from captionlab.data.photos import read_upright
from captionlab.encoders.torchvision_models import import_torchvision
from captionlab.errors import CaptionlabError, first_line, some_of

_LONGEST = 1024  # pixels of a photo's longer side; the models read 224 to 480
_BATCH = 8
_INSTALL = "transformers is not installed: pip install 'captionlab[transformers]'"

# transformers draws weights at random where a file lacks them or has them in another shape; this makes it report them.
REPORTED = {"local_files_only": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
# transformers gives the encoder of a vision-encoder-decoder a pooler that captions do not pass through; published
# weights often lack it.
_UNUSED = "encoder.pooler."


@dataclass(frozen=True, kw_only=True)
class ImageToText:
    """A model with its preprocessing."""

    params: ImageToTextParams
    model: Any
    processor: Any  # of photos and texts, or of texts alone
    images: Any  # of photos: the same, or another
    device: str

    @classmethod
    def load(cls, params: ImageToTextParams, root: Path, device: str) -> "ImageToText":
        """The model that ``params`` names: a folder, relative to ``root``, or a name in the Hugging Face cache.

        Raises CaptionlabError when transformers, a weight or a model of this kind is missing.
        """
        transformers = import_transformers()
        folder = root / params.model
        place = str(folder) if folder.is_dir() else params.model
        try:
            processor = images = transformers.AutoProcessor.from_pretrained(place, local_files_only=True)
            if not hasattr(processor, "image_processor"):  # the models called vision-encoder-decoder have two
                images = transformers.AutoImageProcessor.from_pretrained(place, local_files_only=True)
            model, loaded = transformers.AutoModelForImageTextToText.from_pretrained(place, **REPORTED)
        except OSError as error:
            raise _not_here(params.model, f" ({first_line(error)})") from error
        except Exception as error:  # of any type, where a file is damaged
            raise CaptionlabError(
                f"{params.model} is not an image-to-text model that transformers loads ({first_line(error)})"
            ) from error
        check_weights(params.model, loaded)
        words = getattr(model.config.get_text_config(decoder=True), "vocab_size", None)
        check_tokenizer(params.model, getattr(processor, "tokenizer", processor), words or 0)
        return cls(params=params, model=model.eval().to(device), processor=processor, images=images, device=device)

    @property
    def parameters(self) -> int:
        """The number of weights."""
        return sum(weights.numel() for weights in self.model.parameters())

    @property
    def megabytes(self) -> float:
        """The size of the weights in memory."""
        return sum(weights.numel() * weights.element_size() for weights in self.model.parameters()) / 1e6

    def captions(self, photos: Sequence[Path]) -> Iterator[str]:
        """One caption for each photo, found by beam search, without the prompt.

        Raises CaptionlabError if the model takes no prompt and there is one, or the other way round.
        """
        for begin in range(0, len(photos), _BATCH):
            yield from self._captions([read_upright(photo, _LONGEST) for photo in photos[begin : begin + _BATCH]])

    @torch.inference_mode()
    def _captions(self, images: Sequence[Any]) -> list[str]:
        params = self.params
        try:
            inputs = self._inputs(images)
            tokens = self.model.generate(
                **inputs, num_beams=params.beams, max_new_tokens=params.max_tokens, do_sample=False
            )
        except (TypeError, ValueError) as error:
            advice = "leave the prompt out, or write it as the model's page does" if params.prompt else "add a prompt"
            raise CaptionlabError(f"{params.model} refuses its input ({first_line(error)}); {advice}") from error
        found = self._texts(tokens)
        if not params.prompt:
            return found
        # Most models repeat the prompt. Decoded as the captions are, it has their capitals and no image token.
        prompts = self._texts(inputs["input_ids"])
        return [caption.removeprefix(prompt).strip() for caption, prompt in zip(found, prompts, strict=True)]

    def _texts(self, tokens: torch.Tensor) -> list[str]:
        return [" ".join(text.split()) for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]

    def _inputs(self, images: Sequence[Any]) -> dict[str, Any]:
        prompt = self.params.prompt
        if not prompt:
            return dict(self.images(images=images, return_tensors="pt").to(self.device))
        if self.images is not self.processor:
            raise ValueError("it has one processor for photos and one for texts")
        inputs = self.processor(
            images=images, text=[prompt] * len(images), return_tensors="pt", return_token_type_ids=False
        ).to(self.device)
        if self.model.config.model_type == "git":  # its processor ends the prompt as if it were a whole caption
            inputs["input_ids"], inputs["attention_mask"] = (
                inputs["input_ids"][:, :-1],
                inputs["attention_mask"][:, :-1],
            )
        return dict(inputs)


def import_transformers() -> Any:
    import_torchvision()  # transformers imports it too
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise CaptionlabError(_INSTALL) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def check_weights(model: str, loaded: Mapping[str, Any]) -> None:
    """Raise CaptionlabError if transformers drew weights at random; ``loaded`` is what it reports by ``REPORTED``."""
    drawn = {*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])}
    if names := sorted(name for name in drawn if not name.startswith(_UNUSED)):
        raise CaptionlabError(
            f"the files of {model} lack {len(names):,} of its weights, or have them in another shape "
            f"({some_of(names)}); copy or download the whole model"
        )


def check_tokenizer(model: str, tokenizer: Any, words: int, most: float = math.inf) -> None:
    """Raise CaptionlabError if the tokenizer knows less than half of the words of the weights, or more than ``most``.

    Without its files transformers makes a tokenizer that knows the special tokens alone. Somewhat fewer words are
    usual: the weights' number of words is often rounded up.
    """
    known = len(tokenizer) if hasattr(tokenizer, "batch_decode") else 0
    if not max(1, words / 2) <= known <= most:
        raise CaptionlabError(
            f"the tokenizer of {model} knows {known:,} words, and the weights are for {words:,}; copy or download the "
            "whole model"
        )


def check_image_to_text(model: str, root: Path) -> None:
    """Raise CaptionlabError if ``ImageToText.load`` would not find transformers or the model. Reads no weights."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if find_spec("transformers") is None:
        raise CaptionlabError(_INSTALL)
    folder = root / model
    try:
        here = folder.is_dir() or isinstance(try_to_load_from_cache(model, "config.json"), str)
    except HFValidationError:  # a path
        here = False
    if not here:
        raise _not_here(model)


def _not_here(model: str, reason: str = "") -> CaptionlabError:
    return CaptionlabError(
        f"the model {model} is neither a folder with its weights nor in the Hugging Face cache{reason}; "
        f"{how_to_get(model)}"
    )


def how_to_get(model: str) -> str:
    """What to do where a model's weights are missing: only a name on the Hugging Face Hub can be downloaded."""
    is_name = re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model) is not None
    return f"to download it: hf download {model}" if is_name else "name a folder that exists"
