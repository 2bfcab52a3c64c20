"""CLIPScore and RefCLIPScore (Hessel et al. 2021): how well captions fit their photos, by a CLIP model of transformers.

Weights are read from a folder or the Hugging Face cache and never downloaded here. They compute in fp32, because the
published figures do. Shape letters: N captions, D embedding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from captionlab.data.photos import read_upright
from captionlab.errors import CaptionlabError, first_line, some_of
from captionlab.inference.image_to_text import REPORTED, check_tokenizer, check_weights, how_to_get, import_transformers

_PREFIX = "A photo depicts "
_WEIGHT = 2.5
_LONGEST = 1024  # pixels of a photo's longer side; CLIP reads 224
_BATCH = 64

Floats = NDArray[np.float64]


class ClipScorer:
    """A CLIP model with its preprocessing. Raises CaptionlabError when transformers or one of its files is missing."""

    def __init__(self, model: str, device: str = "cpu") -> None:
        transformers = import_transformers()
        try:
            _check_kind(transformers.CLIPConfig.get_config_dict(model, local_files_only=True)[0])
            self._processor = transformers.CLIPProcessor.from_pretrained(model, local_files_only=True)
            found, loaded = transformers.CLIPModel.from_pretrained(model, **REPORTED)
        except OSError as error:
            raise CaptionlabError(
                f"{model} is neither a folder with CLIP's weights nor in the Hugging Face cache ({first_line(error)}); "
                f"{how_to_get(model)}"
            ) from error
        except Exception as error:  # of any type, where a file is damaged
            raise CaptionlabError(
                f"{model} is not a CLIP model that transformers loads ({first_line(error)})"
            ) from error
        check_weights(model, loaded)
        words = found.config.text_config.vocab_size
        check_tokenizer(model, self._processor.tokenizer, words, most=words)
        self._model: Any = found.float().eval().to(device)
        self._device = device
        self._of_photos: dict[Path, Floats] = {}  # (D,) of what was seen before
        self._of_texts: dict[str, Floats] = {}

    def scores(
        self, pairs: Sequence[tuple[str, str]], photos: Mapping[str, Path], references: Mapping[str, Sequence[str]]
    ) -> dict[str, Floats]:
        """(N,) ``clip_score``, from 0 to 2.5, and ``ref_clip_score`` for pairs of image id and caption.

        CLIPScore is 2.5 times the cosine of photo and caption; RefCLIPScore the harmonic mean of it and of the largest
        cosine of the caption and a reference of its photo. Cosines below 0 count as 0.

        Raises CaptionlabError if a photo is missing.
        """
        images = sorted({image for image, _ in pairs})
        if missing := [image for image in images if image not in photos]:
            raise CaptionlabError(f"{len(missing):,} photos are missing ({some_of(missing)})")
        self._see([photos[image] for image in images])
        self._read(sorted({text for image, caption in pairs for text in (caption, *references[image])}))
        clip, ref_clip = [], []
        for image, caption in pairs:
            caption_D = self._of_texts[caption]
            fit = _WEIGHT * max(0.0, float(caption_D @ self._of_photos[photos[image]]))
            nearest = max(0.0, *(float(caption_D @ self._of_texts[own]) for own in references[image]))
            clip.append(fit)
            ref_clip.append(2 * fit * nearest / (fit + nearest) if fit and nearest else 0.0)
        return {"clip_score": np.array(clip), "ref_clip_score": np.array(ref_clip)}

    @torch.inference_mode()
    def _see(self, paths: Sequence[Path]) -> None:
        """Keep the embeddings of these photos."""
        new = [path for path in paths if path not in self._of_photos]
        for begin in range(0, len(new), _BATCH):
            batch = new[begin : begin + _BATCH]
            images = [read_upright(path, _LONGEST) for path in batch]
            pixels = self._processor(images=images, return_tensors="pt").to(self._device)["pixel_values"]
            self._of_photos |= zip(batch, _unit(self._model.get_image_features(pixel_values=pixels)), strict=True)

    @torch.inference_mode()
    def _read(self, texts: Sequence[str]) -> None:
        """Keep the embeddings of these texts."""
        new = [text for text in texts if text not in self._of_texts]
        longest = self._model.config.text_config.max_position_embeddings  # a tokenizer may not know it
        for begin in range(0, len(new), _BATCH):
            batch = new[begin : begin + _BATCH]
            said = [_PREFIX + text for text in batch]
            tokens = self._processor(
                text=said, return_tensors="pt", padding=True, truncation=True, max_length=longest
            ).to(self._device)
            self._of_texts |= zip(batch, _unit(self._model.get_text_features(**tokens)), strict=True)


def _check_kind(config: Any) -> None:
    """Raise ValueError for the configuration of another model, which CLIPModel takes, with its own defaults."""
    if not isinstance(config, dict) or config.get("model_type") != "clip":
        raise ValueError("the model_type in its config.json is not clip")


def _unit(features: Any) -> Floats:
    """Embeddings of length 1. Newer versions of transformers return them inside an output object."""
    embeddings_ND = features if isinstance(features, torch.Tensor) else features.pooler_output
    return torch.nn.functional.normalize(embeddings_ND, dim=-1).cpu().double().numpy()
