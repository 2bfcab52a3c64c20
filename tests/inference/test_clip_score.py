"""CLIPScore and RefCLIPScore with a tiny random CLIP, compared with the formulas on its embeddings."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from captionlab.data.photos import read_upright
from captionlab.errors import CaptionlabError
from captionlab.inference.clip_score import ClipScorer
from photo_sets import jpegs
from tiny_transformers import (
    MODELS,
    clip,
    transformers,
    with_pickled_weights,
    with_weights,
    without_tokenizer,
    without_weights,
)

REFERENCES = {"0.jpg": ["a red dog .", "dogs"], "1.jpg": ["two cats on a bed ."]}
PAIRS = [("0.jpg", "a dog ."), ("0.jpg", "dogs"), ("1.jpg", "a dog ."), ("1.jpg", "a very long caption of a bed")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    return jpegs(tmp_path, REFERENCES)


def cosines(folder: Path, image: Path, caption: str, references: list[str]) -> tuple[float, float]:
    """The cosine of caption and photo, and the largest of caption and reference, by CLIP's forward pass."""
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    texts = [f"A photo depicts {text}" for text in (caption, *references)]
    inputs = processor(text=texts, images=[read_upright(image, 1024)], return_tensors="pt", padding=True)
    with torch.inference_mode():
        found = model(**inputs)
    photo = float(found.image_embeds[0] @ found.text_embeds[0])
    return photo, max(float(found.text_embeds[0] @ reference) for reference in found.text_embeds[1:])


def test_scores_equal_the_published_formulas(folder: Path, photos: dict[str, Path]) -> None:
    found = ClipScorer(str(folder)).scores(PAIRS, photos, REFERENCES)
    for place, (image, caption) in enumerate(PAIRS):
        photo, reference = cosines(folder, photos[image], caption, REFERENCES[image])
        fit = 2.5 * max(photo, 0)
        expected = 2 / (1 / fit + 1 / reference) if fit > 0 and reference > 0 else 0
        assert found["clip_score"][place] == pytest.approx(fit, abs=1e-5)
        assert found["ref_clip_score"][place] == pytest.approx(expected, abs=1e-5)
    assert 0 in found["clip_score"]  # a negative cosine
    assert (found["clip_score"] > 0).any()
    again = ClipScorer(str(folder))
    again.scores(PAIRS[2:], photos, REFERENCES)
    for name, values in again.scores(PAIRS, photos, REFERENCES).items():  # some of which it has seen before
        assert values == pytest.approx(found[name], abs=1e-6)
    itself = found["clip_score"][1]  # "dogs" is one of its own references
    assert found["ref_clip_score"][1] == pytest.approx(2 * itself / (itself + 1) if itself else 0, abs=1e-5)


def test_scores_of_known_embeddings(folder: Path) -> None:
    """Computed by hand: cosines 0.6 with the photo and 0.8 with the nearer reference; and a cosine below 0."""
    scorer = ClipScorer(str(folder))
    embedded = {"a dog": (0.6, 0.8), "a cat": (0.0, 1.0), "a hat": (-1.0, 0.0)}
    scorer._of_photos[Path("a.jpg")] = np.array((1.0, 0.0))
    scorer._of_texts |= {text: np.array(embedding) for text, embedding in embedded.items()}
    found = scorer.scores([("a", "a dog"), ("a", "a hat")], {"a": Path("a.jpg")}, {"a": ["a cat", "a hat"]})
    assert found["clip_score"] == pytest.approx([1.5, 0])
    assert found["ref_clip_score"] == pytest.approx([2 * 1.5 * 0.8 / 2.3, 0])


def test_missing_photos_are_named(folder: Path, photos: dict[str, Path]) -> None:
    photos.pop("1.jpg")
    with pytest.raises(CaptionlabError, match=r"1 photos are missing \(1\.jpg\)"):
        ClipScorer(str(folder)).scores(PAIRS, photos, REFERENCES)


def test_pickled_weights_in_half_precision_compute_in_fp32(
    folder: Path, photos: dict[str, Path], tmp_path: Path
) -> None:
    halved = tmp_path / "half"
    transformers.CLIPModel.from_pretrained(folder).half().save_pretrained(halved)
    transformers.CLIPProcessor.from_pretrained(folder).save_pretrained(halved)
    with_pickled_weights(halved)
    found = ClipScorer(str(halved)).scores(PAIRS, photos, REFERENCES)["clip_score"]
    assert found == pytest.approx(ClipScorer(str(folder)).scores(PAIRS, photos, REFERENCES)["clip_score"], abs=0.01)


def test_missing_weights_are_one_error_line_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asks the network"))
    with pytest.raises(CaptionlabError, match=r"no-one/clip is neither a folder .*: hf download no-one/clip") as caught:
        ClipScorer("no-one/clip")
    assert "\n" not in str(caught.value)


def refusal(folder: Path) -> str:
    with pytest.raises(CaptionlabError) as caught:
        ClipScorer(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "CLIP")


@pytest.mark.parametrize("pickled", [False, True])
def test_weights_that_lack_a_part_are_refused(tmp_path: Path, pickled: bool) -> None:
    """Not drawn at random, which would give other scores each time."""
    folder = without_weights(clip(tmp_path / "clip"), "text_")
    if pickled:
        with_pickled_weights(folder)
    assert refusal(folder).startswith(
        "the files of CLIP lack 21 of its weights, or have them in another shape (text_model"
    )


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    name = "text_projection.weight"
    folder = with_weights(clip(tmp_path / "clip"), lambda weights: weights | {name: weights[name][:-3].clone()})
    assert f"lack 1 of its weights, or have them in another shape ({name})" in refusal(folder)


def test_a_tokenizer_that_is_missing_or_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = clip(tmp_path / "clip")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(folder)
    assert refusal(folder).startswith("the tokenizer of CLIP knows 56 words, and the weights are for 55; copy or")
    without_tokenizer(folder)
    assert refusal(folder).startswith("the tokenizer of CLIP knows 2 words, and the weights are for 55; copy or")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    assert refusal(MODELS[name](tmp_path / name)) == (
        "CLIP is not a CLIP model that transformers loads (the model_type in its config.json is not clip)"
    )


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("config.json", '{"model_type": "clip", "text_config": "x"}'),
        ("tokenizer.json", "{}"),
        ("processor_config.json", "[]"),
        ("model.safetensors", ""),
    ],
)
def test_a_damaged_file_is_one_error_line(tmp_path: Path, file: str, content: str) -> None:
    folder = clip(tmp_path / "clip")
    (folder / file).write_text(content)
    assert re.match(r"CLIP is (not a CLIP model that transformers loads|neither a folder .*) \(.+\)", refusal(folder))
