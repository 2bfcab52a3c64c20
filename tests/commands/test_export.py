"""captionlab export: the choice of the captioner, and messages."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from captionlab.core.records import Decoding
from captionlab.inference import captioner

if TYPE_CHECKING:
    from conftest import Run


@pytest.fixture(autouse=True)
def own_folder(released: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A working folder; ``released`` is the released captioner."""
    monkeypatch.setattr(captioner, "RELEASED", released)
    monkeypatch.chdir(tmp_path)


def test_the_released_captioner_and_one_by_path_are_exported(run: "Run", released: Path) -> None:
    code, out, err = run("export", "out")
    assert (code, err) == (0, "")
    first, caption, page = out.splitlines()
    assert first.startswith("attention.tiny is exported to out (")
    assert caption.startswith("to caption a photo: python out/caption.py photo.jpg")
    assert "python -m http.server --directory out" in page
    settings = json.loads(Path("out/captioner.json").read_text())
    assert settings["decoding"] == dataclasses.asdict(Decoding(beam=3, length_penalty=0.5, max_words=6))
    assert settings["onnxruntime_web"].startswith("https://cdn.jsdelivr.net/npm/onnxruntime-web@")
    assert settings["words"][:4] == ["<pad>", "<start>", "<end>", "<unk>"]
    assert run("export", "again", "--model", str(released))[0] == 0
    assert Path("again/step.onnx").read_bytes() == Path("out/step.onnx").read_bytes()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("retrieval.lite2", "retrieval has no weights"), ("ensemble.all", "it is an ensemble of several")],
)
def test_systems_without_a_checkpoint_are_refused(run: "Run", name: str, reason: str) -> None:
    expected = f"captionlab: {name} has no checkpoint: {reason}; name a trained system\n"
    assert run("export", "out", "--model", name) == (1, "", expected)
    assert not Path("out").exists()
