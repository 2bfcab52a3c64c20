"""The captioner, from the command line and from Python."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import captionlab
from captionlab import Captioner, CaptionlabError
from captionlab.commands.attention_map import TILE, attention_map
from captionlab.core.records import EVALUATION, RELEASED, Decoding
from captionlab.core.results import ConfigurationScores, DecodedScores, Evaluation, checkpoint_of, write_evaluation
from captionlab.data.photos import SUFFIXES
from captionlab.inference import captioner
from captionlab.inference import photos as reading
from captionlab.training.checkpoint import load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from conftest import Run

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def shipped(released: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with three photos, one in a subfolder, and another file; ``released`` is the captioner."""
    monkeypatch.setattr(captioner, "RELEASED", released)
    monkeypatch.chdir(tmp_path)
    for place, name in enumerate(["holiday.jpg", "beach.png", "more/house.webp"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(place).normal(
            128, 60 + 40 * place, (90, 120 + place)
        )  # Pillow's noise has no seed
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).convert("RGB").save(tmp_path / name)
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no photo")
    return tmp_path


def test_the_example_in_the_documentation_runs(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 + 2 + 1
    assert lines[1] == lines[3]
    assert lines[4].startswith("error: cannot read the photo missing.jpg")
    assert lines[5].endswith(" words, 9 regions")


def test_the_folder_of_a_checkpoint_is_loaded(shipped: Path, released: Path) -> None:
    (shipped / "model").mkdir()
    shutil.copy(released, shipped / "model/checkpoint.safetensors")
    assert Captioner.load("model").label == Captioner.load().label


def test_public_names_are_listed_without_importing_torch() -> None:
    script = "import captionlab, sys; captionlab.CaptionlabError; assert not {'torch', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="module 'captionlab' has no attribute 'Nothing'"):
        _ = captionlab.Nothing


@pytest.mark.parametrize("name", ["beam", "max_words", "min_words"])
def test_a_caption_has_at_least_one_word(shipped: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        Captioner.load().caption("holiday.jpg", **{name: 0})


def test_the_caption_does_not_depend_on_batch_size_or_compilation(shipped: Path) -> None:
    system = Captioner.load()
    photos = ["holiday.jpg", "beach.png", "more/house.webp"]
    together = system.caption(photos)
    assert [len(sentences) for sentences in together] == [3, 3, 3]  # the release's beam
    assert len({sentences[0].log_prob for sentences in together}) == 3  # the caption depends on the photo
    ways = [
        system.caption(photos[1]),
        system.caption(Path(photos[1]).read_bytes()),
        system.caption(Image.open(photos[1])),
    ]
    assert system.caption(np.asarray(Image.open(photos[1])))[0].caption == together[1][0].caption
    assert system.caption([]) == []
    system.warm_up()
    for other in [*ways, system.caption(photos[1])]:
        assert [each.tokens for each in other] == [each.tokens for each in together[1]]
        np.testing.assert_allclose(
            [each.log_prob for each in other], [each.log_prob for each in together[1]], atol=1e-3
        )
    with pytest.raises(CaptionlabError, match=r"no\.jpg: No such file"):
        system.caption(["holiday.jpg", "no.jpg"])


def test_a_gpu_gets_one_batch_at_a_time_in_the_calling_thread(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another thread CUDA's current device is the first one, and batches side by side need more memory."""
    reader = Captioner.load().reader
    engine = reader.engine(1)
    threads = []

    class Listening:
        batch = 1

        def __call__(self, pixels_NHW3: Any) -> Any:
            threads.append(threading.current_thread())
            return engine(pixels_NHW3)

    monkeypatch.setattr(reader, "engine", lambda photos: Listening())
    for device in ("cuda", "cpu"):
        threads.clear()
        monkeypatch.setattr(reader, "device", device)
        list(reading.stream_photos([reader], ["holiday.jpg", "beach.png"], lambda read: [[]] * len(read.pooled_PD)))
        assert len(threads) == 2
        assert ({*threads} == {threading.current_thread()}) == (device == "cuda")


def test_describe_each_equals_describe_for_each_decoding(shipped: Path) -> None:
    captioner = Captioner.load()
    features = captioner.features(["holiday.jpg", "beach.png"])
    decodings = [Decoding(beam=1, max_words=5), Decoding(beam=3), Decoding(beam=3, min_words=4)]
    assert captioner.describe_each(features, decodings) == [captioner.describe(features, each) for each in decodings]


def test_the_encoder_is_compiled_for_many_photos(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "COMPILE_FROM", 3)
    monkeypatch.setattr(reading, "CPU_BLOCK", 2)
    one, many = Captioner.load(), Captioner.load()
    names = ["holiday.jpg", "no.jpg", "beach.png", "more/house.webp"]
    found = list(many.stream(names))
    assert "_compiled" in many.reader.__dict__
    assert isinstance(found[1], CaptionlabError)
    expected = one.caption([names[0], names[2]])
    assert "_compiled" not in one.reader.__dict__
    for ours, theirs in zip((found[0], found[2]), expected, strict=True):
        assert not isinstance(ours, CaptionlabError)
        assert ours[0].log_prob == pytest.approx(theirs[0].log_prob, rel=0.01)


def test_one_caption_is_printed_per_line(shipped: Path, run: "Run") -> None:
    code, out, err = run("caption", "holiday.jpg")
    assert (code, err) == (0, "")
    alone = out.removesuffix("\n")
    assert "\n" not in alone
    code, out, err = run("caption", ".", "holiday.jpg")
    assert (code, err) == (0, "")
    lines = [line.split("\t") for line in out.splitlines()]
    assert [name for name, _ in lines] == ["beach.png", "holiday.jpg", "more/house.webp", "holiday.jpg"]
    assert lines[1][1] == lines[3][1] == alone
    code, out, _ = run("caption", "holiday.jpg", "--beam", "2", "--top", "2")
    assert len(set(out.splitlines())) == 2


@pytest.fixture
def project(shipped: Path, released: Path) -> Path:
    """A project whose evaluation chose beam 2 for ``attention.tiny``; the checkpoint has no decoding."""
    made = load_checkpoint(released)
    save_checkpoint(checkpoint_of(shipped, "attention", "tiny"), dataclasses.replace(made, decoding=None, release=None))
    decoded = [
        DecodedScores(decoding=decoding, val=made.release.scores, test={"strict": made.release.scores})
        for decoding in (Decoding(beam=1), Decoding(beam=2, length_penalty=0.0, max_words=4))
        if made.release
    ]
    scores = ConfigurationScores(
        system="attention", name="tiny", loss=1.0, accuracy=0.5, chosen=1, decodings=tuple(decoded)
    )
    evaluation = Evaluation(dataset="tiny", dataset_digest="d", idf="i", configurations=(scores,))
    write_evaluation(shipped / EVALUATION, evaluation)
    return shipped


def test_the_default_decoding_is_the_one_chosen_on_validation(project: Path, released: Path) -> None:
    path = checkpoint_of(project, "attention", "tiny")
    chosen = Decoding(beam=2, length_penalty=0.0, max_words=4)
    ours = Captioner.load(path)
    assert ours.decoding == chosen
    assert (
        Captioner.load().decoding
        == Captioner.load(released).decoding
        == Decoding(beam=3, length_penalty=0.5, max_words=6)
    )
    said = ours.caption("holiday.jpg")
    assert [len(said), max(len(sentence.tokens) for sentence in said)] == [2, 4]
    assert said == Captioner.load(released).caption("holiday.jpg", **dataclasses.asdict(chosen))
    assert said == ours.describe(ours.features(["holiday.jpg"]))[0]
    assert len(ours.caption("holiday.jpg", beam=4)) == 4
    told = Captioner.load(path, decoding=Decoding(beam=1))
    assert [len(told.caption("holiday.jpg")), len(told.caption("holiday.jpg", beam=3))] == [1, 3]
    copy = project / "copy.safetensors"
    copy.write_bytes(path.read_bytes())
    assert Captioner.load(copy).decoding == Decoding()  # no decoding is known


@pytest.mark.parametrize("name", ["attention.tiny", "artifacts/models/attention/tiny"])
def test_a_model_is_given_by_row_name_or_folder(project: Path, run: "Run", name: str) -> None:
    code, out, err = run("caption", "holiday.jpg", "--model", name, "--json")
    assert (code, err) == (0, "")
    row = json.loads(out)
    best, *others = Captioner.load(checkpoint_of(project, "attention", "tiny")).caption("holiday.jpg")
    assert (row["caption"], [other["caption"] for other in row["alternatives"]]) == (
        best.caption, [sentence.caption for sentence in others]
    )  # fmt: skip
    assert len(others) == 1  # beam 2, as validation chose
    _, out, _ = run("caption", "holiday.jpg", "--model", name, "--json", "--beam", "4")
    assert len(json.loads(out)["alternatives"]) == 3


def test_an_unknown_model_is_one_error_line(project: Path, run: "Run") -> None:
    assert run("caption", "holiday.jpg", "--model", "attention.none") == (
        1, "", "captionlab: attention.none does not exist; train the system first (dvc repro)\n"
    )  # fmt: skip
    (project / EVALUATION / "scores.json").write_text("{}")
    code, out, err = run("caption", "holiday.jpg", "--model", "attention.tiny")
    assert (code, out) == (1, "")
    assert "scores.json is not what its stage writes" in err
    assert err.count("\n") == 1


def test_captions_are_printed_as_json_lines(shipped: Path, run: "Run") -> None:
    code, out, err = run("caption", "holiday.jpg", "beach.png", "--json")
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [list(row) for row in rows] == [["image", "caption", "log_prob", "alternatives"]] * 2
    assert [row["image"] for row in rows] == ["holiday.jpg", "beach.png"]
    assert [len(row["alternatives"]) for row in rows] == [2, 2]
    assert list(rows[0]["alternatives"][0]) == ["caption", "log_prob"]
    assert rows[0]["log_prob"] < 0
    _, out, _ = run("caption", "holiday.jpg", "--json", "--top", "1")
    assert json.loads(out)["alternatives"] == []


def test_a_bad_photo_does_not_stop_the_others(shipped: Path, run: "Run") -> None:
    (shipped / "bad.jpg").write_bytes(b"no photo")
    (shipped / "empty").mkdir()
    code, out, err = run("caption", ".", "empty", "missing.jpg")
    assert code == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == ["beach.png", "holiday.jpg", "more/house.webp"]
    assert [line.split(":")[:2] for line in err.splitlines()] == [
        ["captionlab", f" no photos in empty; formats are {', '.join(sorted(SUFFIXES))}"],
        ["captionlab", " cannot read the photo bad.jpg"],
        ["captionlab", " cannot read the photo missing.jpg"],
    ]


def test_a_photo_is_read_from_standard_input(shipped: Path, run: "Run", monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected, _ = run("caption", "holiday.jpg")
    for content, code in ((Path("holiday.jpg").read_bytes(), 0), (b"", 1)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        got, out, err = run("caption", "-")
        assert (got, out) == (code, "" if code else expected)
        assert err.startswith("captionlab: -: cannot read the photo: it is not a photo") if code else not err


def test_a_name_that_is_not_valid_text_is_printed(shipped: Path, run: "Run") -> None:
    odd = Path("f\udcff.jpg")
    try:
        odd.write_bytes((shipped / "holiday.jpg").read_bytes())
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    code, out, _ = run("caption", str(odd), "holiday.jpg")
    assert code == 0
    assert out.startswith("f\\xff.jpg\t")


def test_attention_is_drawn(shipped: Path, run: "Run") -> None:
    code, out, err = run("caption", "holiday.jpg", "--attention", "looks/map.png")
    assert (code, err) == (0, "")
    with Image.open("looks/map.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > min(5, 1 + len(out.split())) * TILE
    for photos, expected in ((["holiday.jpg", "beach.png"], 2), (["."], 1)):
        code, out, err = run("caption", *photos, "--attention", "other.png")
        assert (code, out) == (expected, "")
        assert "needs exactly one photo" in err
        assert not Path("other.png").exists()
    assert run("caption", "more", "--attention", "other.png")[0] == 0  # a folder of one photo


def test_the_map_is_bright_at_attended_regions() -> None:
    looked = [[0.0] * 8 + [1.0], [1.0] + [0.0] * 8]
    sheet = np.asarray(attention_map(Image.new("RGB", (240, 120), "white"), ["a", "dog"], looked)).astype(int)
    tiles = [sheet[42:162, 12 + 252 * place :][:, :240, 0] for place in range(3)]
    assert (tiles[0] == 255).all()
    assert (tiles[1][0, 0], tiles[1][-1, -1]) == pytest.approx((46, 255), abs=2)
    assert (tiles[2][0, 0], tiles[2][-1, -1]) == pytest.approx((255, 46), abs=2)


def test_a_missing_released_captioner_is_reported(run: "Run", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(captioner, "RELEASED", tmp_path / "none")
    assert run("caption", "photo.jpg") == (
        1, "", "captionlab: this copy of captionlab ships no captioner; name a checkpoint with --model\n"
    )  # fmt: skip


def test_the_released_captioner_describes_a_photo() -> None:
    if not RELEASED.exists():
        pytest.skip("no captioner is released in this copy")
    from sklearn.datasets import load_sample_images

    system = Captioner.load()
    assert system.release is not None
    assert RELEASED.stat().st_size <= 25e6
    said = system.caption([Image.fromarray(photo) for photo in load_sample_images().images])
    assert all(len(sentences[0].caption.split()) > 2 for sentences in said)
    assert said[0][0].caption != said[1][0].caption
