"""The presets: contents, application to params.yaml, and a training step of every row."""

import dataclasses
import hashlib
import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from dvc.utils.hydra import apply_overrides
from PIL import Image
from ruamel.yaml import YAML

from captionlab.commands.preset import apply_preset
from captionlab.commands.preset import presets as every_preset
from captionlab.config import SECTIONS, Params, load_params
from captionlab.core.records import Split
from captionlab.data.store import FeatureStore, open_store
from captionlab.encoders.efficientnet_lite import LITE_PIXELS, SIDE_BY_SIDE
from captionlab.encoders.extraction import Photos, extract
from captionlab.encoders.load import find_weights, load_encoder
from captionlab.encoders.torchvision_models import import_torchvision
from captionlab.errors import CaptionlabError
from captionlab.models.base import megabytes
from captionlab.models.build import build_model
from captionlab.models.params import AttentionParams, MergeParams, StatesParams, SystemParams
from captionlab.training.batches import CaptionedFeatures, SplitCaptions
from captionlab.training.loop import ResumeFile, Splits, Trained, train

if TYPE_CHECKING:
    from conftest import World

REPOSITORY = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (REPOSITORY / "presets").glob("*.yaml"))
OF_FLICKR8K = [name for name in NAMES if name != "own_photos"]
# Sizes of the pooled vector and channels of the grid.
SIZES = {
    "resnet18": (512, 512),
    "vgg16": (4096, 512),
    **dict.fromkeys(LITE_PIXELS, (1280, 1280)),
    **dict.fromkeys(SIDE_BY_SIDE, (3840, 3840)),
    "efficientnet_lite2_last6": (1280, 1280),
    "timm_vit_base_patch16_clip_224__openai": (768, 768),
    "timm_vit_base_patch14_dinov2": (768, 768),
}
WORDS = {
    "report_a": 1_666,
    "report_b": 7_369,
    "image_places": 3_000,
    "flickr8k": 3_000,
    "gpu": 3_000,
    "hour": 3_000,
    "captioner": 3_000,
    "own_photos": 3_000,
    "clip": 3_000,
    "guests": 3_000,
    "trained_blocks": 3_000,
}  # Flickr8k's vocabulary, including special tokens


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(REPOSITORY / "presets", tmp_path / "presets")
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    return tmp_path


def preset(name: str, project: Path) -> Params:
    apply_preset(project, name)
    return load_params(project / "params.yaml")


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Params]:
    """Every preset, applied to the params.yaml of the repository."""
    folder = tmp_path_factory.mktemp("presets")
    shutil.copytree(REPOSITORY / "presets", folder / "presets")
    laid = {}
    for name in NAMES:
        shutil.copy(REPOSITORY / "params.yaml", folder)
        laid[name] = preset(name, folder)
    return laid


def rows(name: str) -> Iterator[tuple[str, str]]:
    plain = YAML(typ="safe").load((REPOSITORY / f"presets/{name}.yaml").read_text(encoding="utf-8"))
    return ((system, config) for system in ("baseline", "modified", "attention") for config in plain[system])


ROWS = [(name, *row) for name in NAMES for row in rows(name)]


def test_presets_are_listed_with_their_time(project: Path) -> None:
    listed = dict(line.split("  ", 1) for line in every_preset(project))
    assert list(listed) == NAMES
    assert all(
        "on two CPU cores" in time or "not measured" in time or "on one CPU core" in time for time in listed.values()
    )
    shutil.rmtree(project / "presets")
    with pytest.raises(CaptionlabError, match="there are no presets in presets/; run captionlab from the project's fo"):
        every_preset(project)


def test_no_preset_overwrites_the_report_of_another(presets: dict[str, Params]) -> None:
    for name in OF_FLICKR8K:
        params = presets[name]
        assert params.dataset.name == (name if name == "flickr8k" else f"flickr8k_{name}")
        assert params.dataset.resolved_format == "flickr8k"


def test_the_best_configuration_of_hour_has_three_seeds(presets: dict[str, Params]) -> None:
    """Each is distilled from its initial model and that of the next seed; an ensemble adds the other models."""
    params = presets["hour"]
    seeds = ["", "_seed2", "_seed3"]
    assert list(params.attention) == [*(f"lite012_380{seed}" for seed in seeds), "lite2_averaged"]
    for seed, second, third in zip(seeds, [*seeds[1:], *seeds[:1]], [*seeds[2:], *seeds[:2]], strict=True):
        distilled = params.finetune[f"distilled{seed}"]
        assert distilled.config == f"lite012_380{seed}"
        assert list(distilled.teachers) == [f"lite012_380{seed}", f"lite012_380{second}"]
        assert list(params.ensemble[f"reranked{seed}"].members) == [f"finetune.distilled{seed}"]
        others = [f"attention.lite012_380{second}", f"attention.lite012_380{third}", "attention.lite2_averaged"]
        assert list(params.ensemble[f"all{seed}"].members) == [f"finetune.distilled{seed}", *others]
        assert params.ensemble[f"all_reranked{seed}"].members == params.ensemble[f"all{seed}"].members


def test_report_a_has_its_rows(presets: dict[str, Params]) -> None:
    params = presets["report_a"]
    grid = [(c.encoder, c.embedding, c.hidden, c.layers) for c in params.baseline.values()]
    assert grid[:5] == [
        ("resnet18", 512, 512, 1),
        ("resnet50", 128, 256, 1),
        ("resnet50", 512, 512, 1),
        ("resnet152", 256, 1024, 1),
        ("resnet152", 512, 512, 2),
    ]
    assert ("inception_v3", 256, 256, 5) in grid
    assert {config.image for config in params.baseline.values()} == {"pre-inject"}
    assert [config.encoder for config in params.modified.values()] == ["vgg16", "inception_v3"]
    attention = params.attention["resnet18"]
    assert isinstance(attention, AttentionParams)
    assert (attention.attention, attention.embedding, attention.hidden, attention.memory) == (512, 512, 512, 0)
    assert params.extract_features.encoders["resnet18"].grid == 14
    assert params.evaluate.beams == (1, 3, 5, 7)


def test_report_b_has_two_systems(presets: dict[str, Params]) -> None:
    params = presets["report_b"]
    assert not params.baseline
    merge, states = params.modified["resnet50"], params.attention["resnet50"]
    assert isinstance(merge, MergeParams)
    assert isinstance(states, StatesParams)
    assert (merge.embedding, merge.hidden, merge.dense, merge.dropout) == (256, 256, 128, 0.5)
    assert (states.embedding, states.attention, states.dense) == (256, 256, 128)
    assert (params.clean_captions.cleaning, params.build_vocab.min_count) == ("report_b", 1)
    assert (params.training.patience, params.training.schedule, params.training.optimizer) == (5, "plateau", "adam")
    assert 5 * params.training.batch_size == pytest.approx(64, abs=1)


def test_the_image_positions_differ_in_nothing_else(presets: dict[str, Params]) -> None:
    configs = presets["image_places"].baseline
    assert {c.image for c in configs.values()} == {"init-inject", "pre-inject", "par-inject", "merge"}
    first, *others = (dataclasses.replace(config, image="merge") for config in configs.values())
    assert all(other == first for other in others)


@pytest.mark.parametrize("name", ["report_a", "report_b"])
def test_the_lite_preset_differs_only_in_encoders(presets: dict[str, Params], name: str) -> None:
    theirs, ours = presets[name], presets[f"{name}_lite"]

    def without_encoders(params: Params) -> Any:
        configs: list[Any] = [
            (system, dataclasses.replace(config, encoder="")) for system, _, config in params.systems()
        ]
        configs += [dataclasses.replace(config, encoder="") for config in params.retrieval.values()]
        nothing = dict.fromkeys(("extract_features", *SECTIONS))
        return configs, {**vars(params), **nothing, "dataset": dataclasses.replace(params.dataset, name="x")}

    assert without_encoders(ours) == without_encoders(theirs)
    assert set(ours.extract_features.encoders) <= set(LITE_PIXELS)
    stands_for: dict[str, set[str]] = {}
    for (_, _, their), (_, _, our) in zip(theirs.systems(), ours.systems(), strict=True):
        stands_for.setdefault(their.encoder, set()).add(our.encoder)
    assert all(len(lites) == 1 for lites in stands_for.values())  # always the same Lite for the same encoder


def test_a_preset_replaces_another_completely_and_keeps_comments(project: Path, presets: dict[str, Params]) -> None:
    """All comments except those inside the systems' configurations, which are replaced."""
    lines = (project / "params.yaml").read_text(encoding="utf-8").splitlines()
    comments = {line[line.index("#") :] for line in lines if "#" in line and not line.startswith("    ")}
    assert len(comments) > 50
    for name in [*NAMES, *NAMES[::-1]]:
        assert preset(name, project) == presets[name]
        after = (project / "params.yaml").read_text(encoding="utf-8")
        assert [comment for comment in comments if f"{comment}\n" not in after] == []
        assert [line for line in after.splitlines() if re.match(r"\w", line)] == re.findall(r"(?<=\n\n)\w.*", after)


def changed_lines(path: Path, override: str) -> list[tuple[str, str]]:
    """The lines that ``dvc exp run -S`` changes in the file, before and after."""
    before = path.read_text(encoding="utf-8").splitlines()
    apply_overrides(str(path), [override])
    after = path.read_text(encoding="utf-8").splitlines()
    return [pair for pair in zip_longest(before, after) if pair[0] != pair[1]]


@pytest.mark.parametrize("name", [None, *NAMES])
def test_a_dvc_override_changes_one_line(project: Path, name: str | None) -> None:
    params = load_params(project / "params.yaml") if name is None else preset(name, project)
    system, config, _ = params.systems()[0]
    path = project / "params.yaml"
    ((before, after),) = changed_lines(path, f"{system}.{config}.dropout=0.123")
    assert (before.split(":")[0], after) == ("    dropout", "    dropout: 0.123")
    ((before, after),) = changed_lines(path, "training.batch_size=7")
    assert (before.split()[0], after.split()[:2]) == ("batch_size:", ["batch_size:", "7"])
    assert before.partition("#")[2] == after.partition("#")[2]
    assert changed_lines(path, "evaluate.max_words=9")[0][1].startswith("  max_words: 9")
    assert load_params(path).evaluate.max_words == 9


def test_a_preset_in_flow_style_gives_the_same_file_as_in_block_style(project: Path) -> None:
    texts = []
    for text in (
        "training: {epochs: 2}\nretrieval: {a: {encoder: efficientnet_lite2, neighbours: [1, 2], consensus_k: 3}}\n"
        "evaluate: {beams: [1, 2], max_words: 9}\n",
        "training:\n  epochs: 2\nretrieval:\n  a:\n    encoder: efficientnet_lite2\n    neighbours:\n    - 1\n    - 2\n"
        "    consensus_k: 3\nevaluate:\n  beams:\n  - 1\n  - 2\n  max_words: 9\n",
    ):
        shutil.copy(REPOSITORY / "params.yaml", project)
        (project / "presets/mine.yaml").write_text(text)
        assert preset("mine", project).evaluate.beams == (1, 2)
        texts.append((project / "params.yaml").read_text(encoding="utf-8"))
    assert texts[0] == texts[1]


def test_a_preset_counts_every_row_of_its_comparison(project: Path) -> None:
    said = apply_preset(project, "trained_blocks")[0]
    rows = load_params(project / "params.yaml").rows()
    assert f" {len(rows)} configurations over " in said
    assert {system for system, _ in rows} == {"attention", "finetune", "ensemble", "retrieval"}


def test_a_preset_states_its_duration(project: Path) -> None:
    for name in NAMES:
        _, time, _ = apply_preset(project, name)
        assert time.startswith("time: ")
        assert f"# Time: {time.removeprefix('time: ')}\n" in (REPOSITORY / f"presets/{name}.yaml").read_text()
    (project / "presets/mine.yaml").write_text("training: {epochs: 3}")
    assert len(apply_preset(project, "mine")) == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_names_known_encoders_and_uses_all_of_them(presets: dict[str, Params], name: str) -> None:
    params = presets[name]
    named = set(params.extract_features.encoders)
    for encoder in named:
        assert encoder in SIDE_BY_SIDE or find_weights(encoder)[0]
    assert {config.encoder for _, _, config in params.systems()} == named
    assert (f"\n{name}" in (REPOSITORY / "Makefile").read_text().replace(" ", "\n")) == (name in OF_FLICKR8K)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "baseline: {a: {encoder: lite9}}",
            r"presets/mine\.yaml: missing key baseline\.a\.embedding",
        ),
        ("training: {momentum: 1}", r"presets/mine\.yaml: unknown key training\.momentum"),
        ("colour: {red: 1}", "unknown key colour"),
        ("training: 3", r"presets/mine\.yaml must be a mapping of sections"),
        ("- 1", "must be a mapping of sections"),
        ("", "must be a mapping of sections"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_an_invalid_preset_changes_nothing(project: Path, content: str, words: str) -> None:
    (project / "presets/mine.yaml").write_text(content)
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(CaptionlabError, match=words) as caught:
        apply_preset(project, "mine")
    assert "\n" not in str(caught.value)
    assert (project / "params.yaml").read_bytes() == before
    assert not list(project.glob(".*partial"))
    assert not list(project.glob("params.yaml.former*"))


def test_changes_that_git_does_not_have_are_kept(project: Path) -> None:
    def git(*command: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], cwd=project, check=True)

    git("init", "-q")
    git("add", "params.yaml")
    git("commit", "-q", "-m", "start")
    assert apply_preset(project, "hour")[-1] == "run it with `dvc exp run`; `git restore params.yaml` goes back"
    assert not list(project.glob("params.yaml.*"))
    mine = (project / "params.yaml").read_bytes() + b"# mine\n"
    (project / "params.yaml").write_bytes(mine)
    said = "git does not have the former params.yaml: it is kept as params.yaml.former"
    assert apply_preset(project, "report_a")[-1] == f"run it with `dvc exp run`; {said}"
    second = (project / "params.yaml").read_bytes()
    assert apply_preset(project, "hour")[-1].endswith(f"{said}2")  # the first one is still the only one of its kind
    assert (project / "params.yaml.former").read_bytes() == mine
    assert (project / "params.yaml.former2").read_bytes() == second
    (project / "params.yaml").write_bytes(mine)
    assert apply_preset(project, "hour")[-1].endswith(said)  # this one is kept already
    git("add", "params.yaml")  # what git restore writes is the staged file
    assert apply_preset(project, "report_a")[-1].endswith("`git restore params.yaml` goes back")


def test_an_unknown_preset_is_an_error_that_lists_the_known_ones(project: Path) -> None:
    with pytest.raises(
        CaptionlabError,
        match=r"no preset 'report_c' in presets/; there are captioner, clip, .*hour, image_places, ",
    ):
        apply_preset(project, "report_c")
    with pytest.raises(CaptionlabError, match="there are none"):
        apply_preset(project / "presets", "report_a")


def test_every_row_is_within_the_size_limit(presets: dict[str, Params]) -> None:
    for name, params in presets.items():
        for system, config, row in params.systems():
            pooled, channels = SIZES.get(row.encoder, (2048, 2048))
            with torch.device("meta"):
                model = build_model(row, vocab=WORDS[name.removesuffix("_lite")], pooled=pooled, channels=channels)
            assert megabytes(model) <= params.training.max_megabytes, f"{name} {system}.{config}"


def one_step(world: "World", store: FeatureStore, params: Params, row: SystemParams, resume: Path) -> Trained:
    """Train one step with random features of the row's encoder and the row's training parameters."""
    grid = row.uses_regions
    splits: tuple[Split, ...] = ("train", "val")
    data = {
        split: CaptionedFeatures.of(store, grid, SplitCaptions.of(world.captions, split, world.vocab))
        for split in splits
    }
    channels = 0 if store.grid is None else store.grid.shape[2]
    model = build_model(row, vocab=len(world.vocab), pooled=store.pooled.shape[1], channels=channels)
    model.standardise.fit(data["train"].feature_blocks())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    how = dataclasses.replace(params.training_of(row), epochs=1, batch_size=100, precision="fp32")
    trained = train(
        model, Splits(data["train"], data["val"]), how, resume_file=ResumeFile(resume, "key"), on_epoch=lambda _: None
    )
    after = model.state_dict()
    assert not torch.equal(before["embedding.weight"], after["embedding.weight"])
    assert not torch.equal(before["out.weight"], after["out.weight"])
    return trained


@pytest.mark.parametrize(("name", "system", "config"), ROWS)
def test_every_row_can_train_a_step(
    presets: dict[str, Params], world: "World", name: str, system: str, config: str, tmp_path: Path
) -> None:
    """On random features of the encoder's size, with a smaller grid."""
    params = presets[name]
    row = params.system(system, config)
    pooled, channels = SIZES.get(row.encoder, (2048, 2048))
    rng = np.random.default_rng(0)
    count = len(world.store.images)
    store = dataclasses.replace(
        world.store,
        pooled=rng.normal(size=(count, pooled)).astype(np.float32),
        grid=rng.normal(size=(count, 9, channels)).astype(np.float16),
    )
    trained = one_step(world, store, params, row, tmp_path / "resume.pt")
    assert 0 < trained.history[0].val_loss < 2 * np.log(len(world.vocab))


def test_report_a_attention_uses_the_grid_of_resnet18(
    presets: dict[str, Params], world: "World", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From photos: ResNet-18 with weights in torch's cache, 14x14 regions of 512 numbers, one step of training."""
    import_torchvision()
    from torchvision import models

    torch.manual_seed(0)
    content = io.BytesIO()
    torch.save(models.get_model("resnet18", weights=None).state_dict(), content)
    url = f"http://127.0.0.1:9/resnet18-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(models.ResNet18_Weights.IMAGENET1K_V1.value, "url", url)
    cached = tmp_path / "hub/checkpoints" / Path(url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content.getvalue())
    params = presets["report_a"]
    row, grid = params.attention["resnet18"], params.extract_features.encoders["resnet18"].grid
    rng = np.random.default_rng(0)
    for image in world.store.images:
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(tmp_path / image)
    out = tmp_path / "features"
    photos = Photos(folder=tmp_path, images=world.store.images, dataset="tiny")
    extract(load_encoder("resnet18", grid), "cpu", photos, out)
    store = open_store(out)
    assert store.grid is not None
    assert (store.side, store.grid.shape) == (14, (12, 196, 512))
    square = np.asarray(store.grid, dtype=np.float32).reshape(12, 14, 14, 512)
    coarse = square.reshape(12, 7, 2, 7, 2, 512).mean((2, 4))
    np.testing.assert_allclose(coarse.mean((1, 2)), store.pooled, rtol=1e-2, atol=1e-3)  # the map of 7x7 behind it
    trained = one_step(world, store, params, row, tmp_path / "resume.pt")
    assert 0 < trained.history[0].val_loss < 2 * np.log(len(world.vocab))  # the loss of random guesses
