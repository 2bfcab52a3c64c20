"""params.yaml read strictly: what is wrong is named, with the file, and nothing else ever comes out."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from captionlab.config import Params, build_system, load_params
from captionlab.errors import CaptionlabError
from captionlab.models.params import AttentionParams, MergeParams, ModifiedParams, StatesParams

REPOSITORY = Path(__file__).parents[1]
Plain = dict[str, Any]


def shipped() -> Plain:
    plain: Plain = YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    return plain


def load(tmp_path: Path, plain: Any) -> Params:
    text = StringIO()
    YAML(typ="safe").dump(plain, text)
    return load_text(tmp_path, text.getvalue())


def load_text(tmp_path: Path, text: str) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return load_params(path)


def put(plain: Plain, key: str, value: Any) -> Plain:
    *parents, last = key.split(".")
    inner = plain
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return plain


def test_the_shipped_file_is_read() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert isinstance(params.system("attention", "lite2"), AttentionParams)
    assert [f"{system}.{name}" for system, name, _ in params.systems()][:2] == [
        "baseline.lite0",
        "baseline.lite1_narrow",
    ]
    assert params.evaluate.beams[0] == 1


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("colour", 1, "unknown key colour"),
        ("training.momentum", 0.9, "unknown key training.momentum"),
        ("baseline.lite0.hiden", 1, "unknown key baseline.lite0.hiden"),
        ("baseline.lite0.repeats", 1, "unknown key baseline.lite0.repeats"),
        ("build_vocab.min_count", "3", "build_vocab.min_count must be of type int, not '3'"),
        ("build_vocab.min_count", 3.0, "build_vocab.min_count must be of type int"),
        ("build_vocab.min_count", True, "build_vocab.min_count must be of type int, not True"),
        ("training.learning_rate", True, "training.learning_rate must be of type float, not True"),
        ("training.learning_rate", "fast", "training.learning_rate must be of type float, not 'fast'"),
        ("training.learning_rate", float("nan"), "training.learning_rate must be of type float"),
        ("training.learning_rate", 10**400, "training.learning_rate must be of type float"),
        ("attention.lite2.tied", 1, "attention.lite2.tied must be of type bool"),
        ("training.optimizer", "sgd", "training.optimizer is 'sgd'; choose one of adamw, adam, rmsprop"),
        ("training", None, "training must be a mapping"),
        ("evaluate.beams", 5, "evaluate.beams must be a list"),
        ("evaluate.beams", [1, "3"], "evaluate.beams.1 must be of type int"),
        ("evaluate.beams", [], "evaluate.beams must name at least one beam"),
        ("evaluate.beams", [0], "evaluate.beams must name at least one beam"),
        ("evaluate.max_words", 0, "evaluate.max_words must be at least 1"),
        ("baseline.lite0.encoder", "lite0", "baseline.lite0.encoder 'lite0' is not in extract_features.encoders"),
        ("attention.lite2.encoder", "efficientnet_lite0", "attention.lite2 needs a grid"),
        ("baseline.lite0.hidden", 0, "baseline.lite0.hidden must be at least 1"),
        ("baseline.lite0.dropout", 1, "baseline.lite0.dropout must be from 0 to below 1"),
        ("baseline.lite0.training", {"epoch": 3}, "baseline.lite0: unknown key training.epoch"),
        ("baseline.lite0.training", {"epochs": "3"}, "baseline.lite0: training.epochs must be of type int"),
        ("baseline.lite0.training", {"epochs": 0}, "baseline.lite0: training.epochs must be at least 1"),
        ("baseline.lite0.training", [], "baseline.lite0.training must be a mapping"),
        ("baseline.lite0.training", {"scheduled_sampling": 2}, "baseline.lite0: training.scheduled_sampling must"),
        ("baseline.lite0.image", "middle", "baseline.lite0.image is 'middle'; choose one of pre-inject, init-inject"),
        ("modified.lite2.kind", "gru", "modified.lite2.kind is 'gru'; choose one of bilstm, merge"),
        ("modified.lite2.kind", "merge", "unknown key modified.lite2.repeats"),
        ("attention.lite2.kind", ["states"], "attention.lite2.kind is ['states']; choose one of regions, states"),
        ("attention.lite2", None, "attention.lite2 must be a mapping, not None"),
        ("dataset.name", "../mine", "the name '../mine' would be a folder"),
        ("dataset.name", "", "the name '' would be a folder"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(CaptionlabError) as caught:
        load(tmp_path, put(shipped(), key, value))
    assert str(caught.value).startswith(f"{tmp_path / 'params.yaml'}: {message}")


def test_words_of_its_own_want_true_ones_to_stand_beside(tmp_path: Path) -> None:
    plain = put(put(shipped(), "attention.lite2.teacher_forcing", value=False), "training.scheduled_sampling", 0.2)
    with pytest.raises(CaptionlabError, match=r"attention\.lite2: training\.scheduled_sampling wants teacher_forcing"):
        load(tmp_path, plain)


@pytest.mark.parametrize(
    "key", ["device", "dataset", "training.patience", "baseline.lite1.hidden", "attention.lite2.tied"]
)
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    plain = inner = shipped()
    *parents, last = key.split(".")
    for parent in parents:
        inner = inner[parent]
    del inner[last]
    with pytest.raises(CaptionlabError, match=f"missing key {key}$"):
        load(tmp_path, plain)


def test_small_floats_as_dvc_writes_them(tmp_path: Path) -> None:
    """``dvc exp run -S training.learning_rate=0.00001`` leaves 1e-05, which YAML reads as text."""
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    params = load_text(tmp_path, re.sub(r"learning_rate: \S+", "learning_rate: 1e-05", text))
    assert params.training.learning_rate == 0.00001
    assert isinstance(load(tmp_path, put(shipped(), "training.clip_norm", 5)).training.clip_norm, float)


def test_a_configuration_lays_its_own_training_over_the_shared(tmp_path: Path) -> None:
    plain = put(shipped(), "baseline.lite0.training", {"epochs": 3, "learning_rate": "1e-05"})
    params = load(tmp_path, plain)
    own = params.training_of(params.system("baseline", "lite0"))
    assert (own.epochs, own.learning_rate) == (3, 1e-05)
    assert own.seed == params.training.seed
    assert params.training_of(params.system("baseline", "lite1")) == params.training


def test_unknown_systems_and_configurations() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    with pytest.raises(CaptionlabError, match=r"baseline has no configuration 'lite9'; params.yaml has lite0, "):
        params.system("baseline", "lite9")
    with pytest.raises(CaptionlabError, match="unknown system 'transformer'; known are baseline, modified, attention"):
        build_system("transformer", {})
    with pytest.raises(CaptionlabError, match=r"missing key baseline\.encoder"):
        build_system("baseline", {"embedding": 1, "hidden": 1, "layers": 1, "dropout": 0.0})


def test_a_configuration_names_its_kind() -> None:
    shared = {"encoder": "resnet50", "embedding": 8, "hidden": 8, "layers": 1, "dropout": 0.0}
    assert isinstance(build_system("modified", {**shared, "repeats": 3}), ModifiedParams)
    assert isinstance(build_system("modified", {**shared, "kind": "merge", "dense": 4}), MergeParams)
    assert isinstance(build_system("attention", {**shared, "kind": "states", "dense": 4, "attention": 4}), StatesParams)
    with pytest.raises(CaptionlabError, match=r"missing key modified\.dense"):
        build_system("modified", {**shared, "kind": "merge"})


def test_the_format_follows_the_name(tmp_path: Path) -> None:
    assert load(tmp_path, put(shipped(), "dataset.name", "flickr8k")).dataset.resolved_format == "flickr8k"
    plain = put(put(shipped(), "dataset.name", "holidays"), "dataset.format", "folder")
    assert load(tmp_path, plain).dataset.resolved_format == "folder"
    unknown = load(tmp_path, put(shipped(), "dataset.name", "holidays"))
    with pytest.raises(CaptionlabError, match=r"dataset\.name 'holidays' is not a format; set dataset.format"):
        unknown.dataset.resolved_format  # noqa: B018


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "a: [", "a: 1\na: 2\n", "a: 2020-13-45", "? [a]\n: 1", "!!python/name:os.system"),
        *("&a {b: *a}", "\t", "\0", "[" * 500),
    ],
)
def test_no_yaml_or_not_ours(tmp_path: Path, text: str) -> None:
    with pytest.raises(CaptionlabError, match=r"params\.yaml"):
        load_text(tmp_path, text)


FINETUNED = {"system": "attention", "config": "lite2", "cross_entropy": 0.2}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("finetune.x", FINETUNED | {"samples": 1}, r"samples must be at least 2"),
        ("finetune.x", FINETUNED, r"finetune\.x wants samples, .* or teachers: one of the two"),
        ("finetune.x", FINETUNED | {"samples": 5, "teachers": ["lite2"]}, r"one of the two"),
        ("finetune.x", FINETUNED | {"teachers": ["lite3"]}, r"attention has no configuration 'lite3'"),
        ("finetune.x", FINETUNED | {"samples": 5, "cross_entropy": 1.5}, r"cross_entropy must be from 0 to 1"),
        ("finetune.x", FINETUNED | {"samples": 5, "system": "caption"}, r"system is 'caption'; choose one of"),
        ("ensemble.x", {"members": []}, r"ensemble\.x has no members"),
        ("ensemble.x", {"members": ["attention.lite3"]}, r"has no member 'attention\.lite3'; choose among"),
        ("ensemble.x", {"members": ["attention.lite2"], "neighbours": 30}, r"both 0, or both above it"),
        ("ensemble.x", {"members": ["attention.lite2"], "consensus_weight": 4.0}, r"both 0, or both above it"),
    ],
)
def test_rows_of_trained_systems_that_cannot_be(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(CaptionlabError, match=message):
        load(tmp_path, put(shipped(), key, value))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CaptionlabError, match=r"does not exist; run captionlab from the project's folder"):
        load_params(tmp_path / "params.yaml")
    with pytest.raises(CaptionlabError, match="cannot read"):
        load_params(tmp_path)
    (tmp_path / "latin").write_bytes(b"device: \xe9")
    with pytest.raises(CaptionlabError, match="is not valid YAML"):
        load_params(tmp_path / "latin")


def paths(plain: Plain, prefix: str = "") -> list[str]:
    keys = []
    for name, value in plain.items():
        keys.append(prefix + name)
        if isinstance(value, dict):
            keys += paths(value, f"{prefix}{name}.")
    return keys


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="ascii"), max_size=5)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)
)


@settings(max_examples=80, deadline=None)
@given(key=st.sampled_from(paths(shipped())), value=VALUES)
def test_any_value_anywhere_gives_params_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    try:
        params = load(tmp_path_factory.mktemp("fuzz"), put(shipped(), key, value))
    except CaptionlabError as error:
        assert "params.yaml" in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert isinstance(params, Params)


def test_a_value_that_no_memory_holds_is_named_in_brief(tmp_path: Path) -> None:
    """A few lines of anchors stand for a list of a billion."""
    laughs = "".join(
        f"- &{name} [{', '.join([f'*{of}'] * 10)}]\n" for of, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text in (f"device:\n- &a [x]\n{laughs}", f"device: 0x{'f' * 5000}"):
        with pytest.raises(CaptionlabError, match=r"params\.yaml: ") as caught:
            load_text(tmp_path, text)
        assert len(str(caught.value)) < 1100
