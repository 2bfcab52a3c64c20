"""Tiny models of the library transformers with random weights, saved as local folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from captionlab.inference.image_to_text import import_transformers


class _Transformers:
    """The library, imported when it is used: collecting the tests must not wait for it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_transformers(), name)


transformers: Any = _Transformers()

PIXELS = 32
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] [DEC] a dog runs on the grass two cats sleep photo of".split()
_SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_VISION = {**_SMALL, "image_size": PIXELS, "patch_size": 16}


def _tokenizer(folder: Path) -> Any:
    folder.mkdir(parents=True)
    (folder / "words.txt").write_text("\n".join(WORDS))
    return transformers.BertTokenizer(str(folder / "words.txt"), additional_special_tokens=["[DEC]"])


def blip(folder: Path) -> Path:
    """A BLIP captioner with a vocabulary of a few words."""
    tokenizer = _tokenizer(folder)
    torch.manual_seed(1)
    text = {
        **_SMALL, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "projection_dim": 16,
        "max_position_embeddings": 32, "bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3,
    }  # fmt: skip
    config = transformers.BlipConfig(
        text_config=text, vision_config={**_VISION, "projection_dim": 16}, projection_dim=16
    )
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    transformers.BlipProcessor(
        transformers.BlipImageProcessor(size={"height": PIXELS, "width": PIXELS}), tokenizer
    ).save_pretrained(folder)
    return folder


def git(folder: Path) -> Path:
    """A GIT with the same words."""
    tokenizer = _tokenizer(folder)
    torch.manual_seed(2)
    config = transformers.GitConfig(
        **_SMALL, vision_config=_VISION, vocab_size=len(WORDS), max_position_embeddings=64, bos_token_id=2,
        eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    transformers.GitForCausalLM(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}
    )
    transformers.GitProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def vit_bert(folder: Path) -> Path:
    """A vision-encoder-decoder of ViT and BERT with the same words, and with a processor each for photos and texts."""
    tokenizer = _tokenizer(folder)
    torch.manual_seed(3)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**_VISION), transformers.BertConfig(**_SMALL, vocab_size=len(WORDS)),
        decoder_start_token_id=2, pad_token_id=0, eos_token_id=3,
    )  # fmt: skip
    transformers.VisionEncoderDecoderModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": PIXELS, "width": PIXELS}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def llava(folder: Path) -> Path:
    """A LLaVA, whose prompt says where the photo is: with the token ``<image>``."""
    tokenizer = _tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.image_token = "<image>"
    image = tokenizer.convert_tokens_to_ids("<image>")
    torch.manual_seed(5)
    text = transformers.LlamaConfig(
        **_SMALL, vocab_size=len(tokenizer), num_key_value_heads=2, pad_token_id=0, bos_token_id=2, eos_token_id=3
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**_VISION), text_config=text, image_token_index=image,
        vision_feature_layer=-1,
    )  # fmt: skip
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    size = {"height": PIXELS, "width": PIXELS}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": PIXELS}, crop_size=size)
    transformers.LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def with_pickled_weights(folder: Path) -> Path:
    """The same model with pytorch_model.bin alone, as many models on the Hugging Face Hub still have it."""
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def with_weights(folder: Path, changed: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    """The same model with model.safetensors as ``changed`` makes it."""
    from safetensors.torch import load_file, save_file

    weights = changed(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without_weights(folder: Path, part: str) -> Path:
    """The same model without the weights whose names begin so."""
    return with_weights(folder, lambda weights: {k: v for k, v in weights.items() if not k.startswith(part)})


def without_tokenizer(folder: Path) -> Path:
    """The same model without the files of its tokenizer."""
    for name in ("merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json", "words.txt"):
        (folder / name).unlink(missing_ok=True)
    return folder


WITH_PROMPT: dict[str, Callable[[Path], Path]] = {"blip": blip, "git": git}
MODELS = {**WITH_PROMPT, "vit_bert": vit_bert}


def clip(folder: Path) -> Path:
    """A CLIP whose words are letters."""
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in f"{letters}.")]
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    torch.manual_seed(4)  # some photos and texts fit, some do not
    text = {
        **_SMALL, "vocab_size": len(words), "max_position_embeddings": 77, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 1,
    }  # fmt: skip
    config = transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"height": PIXELS, "width": PIXELS}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": PIXELS}, crop_size=size)
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder
