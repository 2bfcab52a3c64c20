"""Image-to-text models of transformers: tiny models of two families with random weights."""

import dataclasses
from pathlib import Path

import pytest
import torch

from captionlab.core.params import ImageToTextParams
from captionlab.data.photos import read_upright
from captionlab.errors import CaptionlabError
from captionlab.inference.image_to_text import ImageToText
from photo_sets import jpeg
from tiny_transformers import (
    MODELS,
    WITH_PROMPT,
    blip,
    git,
    llava,
    transformers,
    vit_bert,
    with_pickled_weights,
    with_weights,
    without_tokenizer,
    without_weights,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in MODELS.items()}


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(10)]  # more than a batch
    for number, path in enumerate(paths):
        path.write_bytes(jpeg(number))
    return paths


def loaded(folder: Path, **params: object) -> ImageToText:
    wanted = ImageToTextParams(model=folder.name, **params)  # type: ignore[arg-type]
    return ImageToText.load(wanted, folder.parent, "cpu")


@pytest.mark.parametrize("name", MODELS)
def test_captions_equal_those_of_transformers(folders: dict[str, Path], photos: list[Path], name: str) -> None:
    said = list(loaded(folders[name], beams=3, max_tokens=6).captions(photos))
    assert len(said) == len(photos)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folders[name]).eval()
    images = transformers.AutoImageProcessor.from_pretrained(folders[name])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
    for photo, caption in zip(photos, said, strict=True):  # one by one, and not in batches
        inputs = images(images=[read_upright(photo, 1024)], return_tensors="pt")
        with torch.inference_mode():
            tokens = model.generate(**inputs, num_beams=3, max_new_tokens=6, do_sample=False)
        assert caption == tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].strip()


def test_a_prompt_that_a_model_does_not_take_is_one_error_line(folders: dict[str, Path], photos: list[Path]) -> None:
    model = loaded(folders["vit_bert"], prompt="A photo of")
    with pytest.raises(CaptionlabError, match=r"^vit_bert refuses its input \(.*\); leave the prompt out, or write it"):
        next(model.captions(photos))


def test_a_missing_prompt_is_one_error_line(folders: dict[str, Path], photos: list[Path]) -> None:
    """As with chat models, whose processors want text; here it is a tokenizer."""
    model = loaded(folders["git"])
    model = dataclasses.replace(model, images=model.processor.tokenizer)
    with pytest.raises(CaptionlabError, match=r"^git refuses its input \(.*\); add a prompt$"):
        next(model.captions(photos))


@pytest.mark.parametrize("name", WITH_PROMPT)
def test_a_prompt_is_not_part_of_the_caption(folders: dict[str, Path], photos: list[Path], name: str) -> None:
    prompted = list(loaded(folders[name], prompt="A photo of", max_tokens=6).captions(photos[:2]))
    assert not any("photo of" in caption[:10] for caption in prompted)
    model = loaded(folders[name], prompt="A photo of")
    tokens = model._inputs([read_upright(photos[0], 1024)])["input_ids"][0].tolist()
    assert model.processor.tokenizer.convert_ids_to_tokens(tokens)[:4] == ["[CLS]", "a", "photo", "of"]
    assert (name == "git") == (tokens[-1] != model.processor.tokenizer.sep_token_id)  # BLIP removes the prompt itself


def test_the_prompt_of_a_chat_model_is_not_part_of_the_caption(tmp_path: Path, photos: list[Path]) -> None:
    folder = llava(tmp_path / "llava")
    prompt = "[CLS] <image> A dog on the photo"
    said = list(loaded(folder, prompt=prompt, max_tokens=6).captions(photos[:2]))
    assert not any("dog on the photo" in caption for caption in said)
    assert all(said)
    for wrong in ("", "a photo of"):
        with pytest.raises(CaptionlabError, match=r"^llava refuses its input \(.*\); (add a|leave the) prompt"):
            next(loaded(folder, prompt=wrong).captions(photos))


def test_weights_that_are_no_safetensors_are_loaded(tmp_path: Path, photos: list[Path]) -> None:
    """pytorch_model.bin, the only weights of some well-known models; code in it is not run."""
    folder = blip(tmp_path / "blip")
    said = list(loaded(folder, max_tokens=6).captions(photos))
    assert list(loaded(with_pickled_weights(folder), max_tokens=6).captions(photos)) == said


@pytest.mark.parametrize("damage", ["code", "half", "empty"])
@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_damaged_weights_are_one_error_line(tmp_path: Path, file: str, damage: str) -> None:
    folder = blip(tmp_path / "blip")
    if file == "pytorch_model.bin":
        with_pickled_weights(folder)
    weights = folder / file
    if damage == "code":
        torch.save({"weights": print}, weights)
    else:
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2 if damage == "half" else 0])
    with pytest.raises(
        CaptionlabError, match=r"blip is (not an image-to-text model|neither a folder) .*\(.+\)"
    ) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pickled", [False, True])
def test_weights_that_lack_a_part_are_refused(tmp_path: Path, pickled: bool) -> None:
    """Not drawn at random."""
    folder = without_weights(blip(tmp_path / "blip"), "text_decoder.")
    if pickled:
        with_pickled_weights(folder)
    with pytest.raises(
        CaptionlabError, match=r"^the files of blip lack 37 of its weights, .*\(text_decoder\..*, \.\.\.\); copy or"
    ):
        loaded(folder)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    name = "git.embeddings.word_embeddings.weight"
    folder = with_weights(git(tmp_path / "git"), lambda weights: weights | {name: weights[name][:-3].clone()})
    with pytest.raises(CaptionlabError, match=rf"^the files of git lack 1 of its weights, or .* \({name}\); copy or"):
        loaded(folder)


def test_weights_that_captions_do_not_pass_through_may_lack(
    tmp_path: Path, folders: dict[str, Path], photos: list[Path]
) -> None:
    """As the pooler of ViT in many published models."""
    folder = without_weights(vit_bert(tmp_path / "vit_bert"), "encoder.pooler.")
    said, expected = (list(loaded(each, max_tokens=6).captions(photos)) for each in (folder, folders["vit_bert"]))
    assert said == expected


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_its_tokenizer_is_refused(tmp_path: Path, name: str) -> None:
    folder = without_tokenizer(MODELS[name](tmp_path / name))
    with pytest.raises(CaptionlabError, match=rf"^the tokenizer of {name} knows [05] words, and .* for 17; copy or"):
        loaded(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.json", "[]"), ("config.json", "{"), ("tokenizer.json", "{}"), ("processor_config.json", "[]")],
)
@pytest.mark.parametrize("name", ["blip", "git"])
def test_a_damaged_file_is_one_error_line(tmp_path: Path, name: str, file: str, content: str) -> None:
    folder = MODELS[name](tmp_path / name)
    (folder / file).write_text(content)
    with pytest.raises(
        CaptionlabError, match=rf"{name} is (not an image-to-text model|neither a folder) .*\(.+\)"
    ) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_and_size_of_a_model_are_reported(folders: dict[str, Path], name: str) -> None:
    model = loaded(folders[name])
    assert model.parameters == sum(weights.numel() for weights in model.model.parameters()) > 1000
    assert model.megabytes == pytest.approx(4e-6 * model.parameters)  # float32


def test_missing_weights_are_one_error_line_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asks the network"))
    with pytest.raises(
        CaptionlabError, match=r"no-one/nothing is neither a folder .*: hf download no-one/nothing"
    ) as caught:
        ImageToText.load(ImageToTextParams(model="no-one/nothing"), tmp_path, "cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(CaptionlabError, match=r"/no/folder is neither .*; name a folder that exists$"):
        ImageToText.load(ImageToTextParams(model="/no/folder"), tmp_path, "cpu")


def test_a_folder_without_a_model_is_one_error_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CaptionlabError) as caught:
        ImageToText.load(ImageToTextParams(model="."), tmp_path, "cpu")
    assert "\n" not in str(caught.value)
