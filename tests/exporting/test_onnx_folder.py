"""Exported captioners: captions without PyTorch, files, and errors for unsupported systems."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from PIL import Image

from builders import digests
from captionlab.core.records import Decoding
from captionlab.data.photos import PREPROCESSINGS, read_photo
from captionlab.demo.examples import example_photo
from captionlab.encoders.load import load_encoder
from captionlab.errors import CaptionlabError
from captionlab.exporting import caption
from captionlab.exporting.onnx_folder import RUNTIME, export
from captionlab.inference.captioner import Captioner
from captionlab.models.build import WithEncoder
from exported import ENCODER, SCENES, load_runner, make_captioner

if TYPE_CHECKING:
    from conftest import World

SYSTEMS: list[tuple[str, dict[str, Any], Decoding]] = [
    ("baseline", {"layers": 2}, Decoding()),
    ("baseline", {"image": "init-inject"}, Decoding(beam=1)),
    ("baseline", {"image": "par-inject"}, Decoding(beam=2, max_words=3)),
    ("baseline", {"image": "merge"}, Decoding(beam=4, length_penalty=0.0)),
    ("modified", {"kind": "merge"}, Decoding(beam=3, length_penalty=1.5)),
    ("attention", {}, Decoding(min_words=4, no_repeat_ngram=2)),
    ("attention", {"memory": 0}, Decoding(no_repeat_ngram=1)),
    ("attention", {"kind": "states"}, Decoding(beam=10)),
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for name in SCENES:
        (folder / name).write_bytes(example_photo(name) or b"")
    return sorted(folder.iterdir())


@pytest.mark.parametrize(("system", "changes", "decoding"), SYSTEMS)
def test_an_export_gives_the_same_captions(
    world: "World", photos: list[Path], tmp_path: Path, system: str, changes: dict[str, Any], decoding: Decoding
) -> None:
    captioner = make_captioner(world.vocab, system, decoding, **changes)
    export(captioner, tmp_path / "out")
    exported = load_runner(tmp_path / "out").Captioner()
    ours = [sentences[0].caption for sentences in captioner.caption(photos)]
    assert [exported.caption(photo) for photo in photos] == ours
    assert len(set(ours)) > 1


def test_a_system_with_encoder_blocks_gives_the_same_captions(
    world: "World", photos: list[Path], tmp_path: Path
) -> None:
    plain = make_captioner(world.vocab, "attention", Decoding())
    encoder = load_encoder(f"{ENCODER}_last1", plain.identity.grid)
    identity = dataclasses.replace(plain.identity, encoder=encoder.name, encoder_weights=encoder.weights_digest)
    model = WithEncoder(encoder.network.last, plain.model).eval()
    captioner = dataclasses.replace(plain, model=model, identity=identity)
    export(captioner, tmp_path / "out")
    exported = load_runner(tmp_path / "out").Captioner()
    ours = [sentences[0].caption for sentences in captioner.caption(photos)]
    assert [exported.caption(photo) for photo in photos] == ours
    assert len(set(ours)) > 1


def test_the_runner_needs_neither_torch_nor_captionlab(released: Path, photos: list[Path], tmp_path: Path) -> None:
    captioner = Captioner.load(released, "cpu")
    export(captioner, tmp_path / "out")
    script = (
        "import runpy, sys; sys.modules |= {'torch': None, 'captionlab': None}; "
        "runpy.run_path('out/caption.py', run_name='__main__')"
    )

    def run(*names: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *map(str, names)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    expected = [sentences[0].caption for sentences in captioner.caption(photos)]
    lines = [f"{photo}\t{caption}" for photo, caption in zip(photos, expected, strict=True)]
    done = run(photos[0])
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, expected[:1], "")
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    done = run(photos[0], tmp_path / "broken.jpg", *photos[1:])
    assert (done.returncode, done.stdout.splitlines()) == (1, lines)  # the others are captioned
    assert re.fullmatch(r"cannot caption \S+broken\.jpg: cannot identify .*\n", done.stderr)
    done = run()
    assert (done.returncode, done.stderr) == (1, "usage: python caption.py PHOTO...\n")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "L", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(500, 333), (40, 90), (1600, 1300)])
def test_the_runner_reads_photos_as_captionlab_does(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 4), np.uint8))
    photo = noise.resize(size).convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        photo = Image.fromarray(np.asarray(photo).astype(np.uint16) * 257)
    path = tmp_path / ("photo.jpg" if mode in ("RGB", "CMYK") else "photo.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    photo.save(path, exif=exif)
    with Image.open(path) as image:
        for interpolation, name in PREPROCESSINGS.items():
            np.testing.assert_array_equal(caption.read_photo(image, 224, name), read_photo(path, 224, interpolation))


def test_the_same_captioner_gives_the_same_files(released: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(Captioner.load(released, "cpu"), tmp_path / name)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_int8_export_is_smaller_and_runs(world: "World", photos: list[Path], tmp_path: Path) -> None:
    captioner = make_captioner(world.vocab, "attention", Decoding(beam=3), memory=500, attention=300)
    export(captioner, tmp_path / "whole")
    export(captioner, tmp_path / "int8", int8=True)
    sizes = {
        name: [(tmp_path / name / file).stat().st_size for file in ("encoder.onnx", "step.onnx")]
        for name in ("whole", "int8")
    }
    assert sizes["int8"][0] < 0.55 * sizes["whole"][0]
    assert sizes["int8"][1] < 0.4 * sizes["whole"][1]
    exported = load_runner(tmp_path / "int8").Captioner()
    same = [exported.caption(photo) == captioner.caption(photo)[0].caption for photo in photos]
    assert sum(same) > len(photos) / 2


def test_int8_has_a_scale_for_each_output_of_an_lstm(world: "World", tmp_path: Path) -> None:
    export(make_captioner(world.vocab, "baseline", Decoding(), hidden=128), tmp_path / "out", int8=True)
    graph = onnx.load(tmp_path / "out/step.onnx").graph
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    expanded = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    for node in expanded:
        (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
        stored, scales = (shapes[name] for name in node.input)
        assert list(scales) == [stored[axis]] > [1]
    assert sorted(list(shapes[node.input[0]]) for node in expanded if len(shapes[node.input[0]]) == 3) == [
        [1, 512, 8], [1, 512, 128]
    ]  # fmt: skip


def test_a_decoder_with_a_loop_over_words_is_refused(world: "World", tmp_path: Path) -> None:
    captioner = make_captioner(world.vocab, "modified", Decoding())
    with pytest.raises(CaptionlabError, match=r"^modified\.tiny cannot be exported: a step of its decoder reads all"):
        export(captioner, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_new_or_empty_folders_are_accepted(released: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    captioner = Captioner.load(released, "cpu")
    with pytest.raises(CaptionlabError, match=r"is not empty; name a new or empty folder$"):
        export(captioner, tmp_path)
    with pytest.raises(CaptionlabError, match=r"notes\.txt is not a folder"):
        export(captioner, tmp_path / "notes.txt")
    with pytest.raises(CaptionlabError, match=rf"has no {RUNTIME[0]}; `npm pack onnxruntime-web@"):
        export(captioner, tmp_path / "out", web_runtime=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
