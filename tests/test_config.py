"""Strict reading of params.yaml, with errors that name the file and the key."""

import copy
import re
from collections.abc import Iterator
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from captionlab.config import Params, build_system, load_params
from captionlab.core.dataset_formats import FORMATS
from captionlab.errors import CaptionlabError
from captionlab.models.params import AttentionParams, MergeParams, ModifiedParams, StatesParams

REPOSITORY = Path(__file__).parents[1]
HOME = Path.home()
Plain = dict[str, Any]


@cache
def _shipped() -> Plain:
    plain: Plain = YAML(typ="safe").load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    return plain


def shipped() -> Plain:
    return copy.deepcopy(_shipped())


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
    inner[int(last) if isinstance(inner, list) else last] = value
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
        ("colour", 1, "unknown key colour; known: device, dataset, "),
        ("training.momentum", 0.9, "unknown key training.momentum; known: seed, epochs, "),
        ("baseline.lite0.hiden", 1, "unknown key baseline.lite0.hiden; known: encoder, embedding, "),
        ("baseline.lite0.repeats", 1, "unknown key baseline.lite0.repeats"),
        ("training.2024", 1, "unknown key training.2024"),
        ("training.\ud800", 1, "unknown key training.\\ud800; known: seed, "),
        ("device", "\ud800", "device"),
        ("build_vocab.min_count", "3", "build_vocab.min_count must be an integer, not '3'"),
        ("build_vocab.min_count", 3.0, "build_vocab.min_count must be an integer, not 3.0"),
        ("build_vocab.min_count", True, "build_vocab.min_count must be an integer, not True"),
        ("training.learning_rate", True, "training.learning_rate must be a number, not True"),
        ("training.learning_rate", "fast", "training.learning_rate must be a number, not 'fast'"),
        ("training.learning_rate", "nan", "training.learning_rate must be a finite number, not nan"),
        ("training.learning_rate", float("nan"), "training.learning_rate must be a finite number, not nan"),
        ("training.learning_rate", 10**400, "training.learning_rate must be a number"),
        ("attention.lite2.tied", 1, "attention.lite2.tied must be true or false, not 1"),
        ("dataset.source", 3, "dataset.source must be text, not 3"),
        ("dataset.source", "", "dataset.source must be text that is not empty, not ''"),
        ("dataset.source", "~/photos", f"dataset.source: DVC does not expand the ~ of ~/photos; write {HOME}/photos"),
        ("evaluate.clip", "~/clip", f"evaluate.clip: DVC does not expand the ~ of ~/clip; write {HOME}/clip"),
        ("guests", {"b": {"captions": "~/b.json"}}, "guests.b.captions: DVC does not expand the ~ of ~/b.json"),
        (
            "evaluate.clip",
            "~no-such-user/b",
            "evaluate.clip: DVC does not expand the ~ of ~no-such-user/b; write the whole path",
        ),
        ("guest_models", {"b": {"model": "~/b"}}, "guest_models.b.model: DVC does not expand the ~ of ~/b"),
        ("training.optimizer", "sgd", "training.optimizer must be one of 'adamw', 'adam' or 'rmsprop', not 'sgd'"),
        ("training", None, "training must be a mapping, not None"),
        ("evaluate.beams", 5, "evaluate.beams must be a list, not 5"),
        ("evaluate.beams", [1, "3"], "evaluate.beams.1 must be an integer, not '3'"),
        ("evaluate.beams", [], "evaluate.beams must be a list with at least 1 entry"),
        ("evaluate.beams", [3, 1, 3], "evaluate.beams: a number is repeated in [3, 1, 3]"),
        ("baseline.lite0.encoder", "lite0", "baseline.lite0.encoder 'lite0' is not in extract_features.encoders"),
        ("retrieval.lite2.encoder", "lite0", "retrieval.lite2.encoder 'lite0' is not in extract_features.encoders"),
        ("attention.lite2.encoder", "efficientnet_lite0", "attention.lite2 needs a grid"),
        ("baseline.lite0.training", {"epoch": 3}, "unknown key baseline.lite0.training.epoch; known: seed, "),
        ("baseline.lite0.training", {"epochs": "3"}, "baseline.lite0.training.epochs must be an integer, not '3'"),
        ("baseline.lite0.training", {"epochs": 0}, "baseline.lite0.training.epochs must be at least 1, not 0"),
        ("baseline.lite0.training", [], "baseline.lite0.training must be a mapping"),
        ("baseline.lite0.image", "middle", "baseline.lite0.image must be one of 'pre-inject', 'init-inject', "),
        ("modified.lite2.kind", "gru", "modified.lite2: kind must be one of bilstm, merge, not 'gru'"),
        ("modified.lite2.kind", "merge", "unknown key modified.lite2.repeats"),
        ("attention.lite2.kind", ["states"], "attention.lite2: kind must be one of regions, states, not ['states']"),
        ("attention.lite2", None, "attention.lite2 must be a mapping, not None"),
        ("dataset.val_share", 0.9, "dataset.val_share and dataset.test_share must add up to less than 1"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(CaptionlabError) as caught:
        load(tmp_path, put(shipped(), key, value))
    assert str(caught.value).startswith(f"{tmp_path / 'params.yaml'}: {message}")


# The key of each number, and the nearest values below and above its range.
RANGES = """
dataset.max_bad_share -0.01 1.01; dataset.val_share -0.1 1.1; dataset.test_share -0.1 1.1
dataset.split_seed -1 4294967296; dataset.scenes.train 0 1000001; dataset.scenes.val 0 1000001
dataset.scenes.test 0 1000001; dataset.scenes.seed -1 4294967296; build_vocab.min_count 0 1000001
extract_features.encoders.efficientnet_lite2.grid -1 65; training.seed -1 4294967296; training.epochs 0 1000001
training.patience 0 1000001; training.batch_size 0 1000001; training.learning_rate 0.0 10.1
training.encoder_learning_rate -0.1 10.1; training.crop 0.0 1.1; training.weight_decay -0.1 100.1
training.plateau_patience 0 1000001; training.plateau_factor 0.0 1.0; training.label_smoothing -0.1 1.0
training.doubly_stochastic -0.1 1000.1; training.scheduled_sampling -0.1 1.1; training.clip_norm 0.0 1000000.1
training.ema_decay -0.1 1.0; training.max_megabytes 0.0 100000.1; baseline.lite0.embedding 0 1000001
baseline.lite0.hidden 0 1000001; baseline.lite0.layers 0 101; baseline.lite0.dropout -0.1 1.0
baseline.lite0.image_dropout -0.1 1.0; baseline.lite0.forget_bias -101.0 101.0; modified.lite2.repeats 0 1001
modified.lite2.image_dropout -0.1 1.0; modified.lite2_merge.dense 0 1000001; attention.lite2.attention 0 1000001
attention.lite2.memory -1 1000001; attention.lite2_states.attention 0 1000001; attention.lite2_states.dense 0 1000001
retrieval.lite2.neighbours.0 0 1001; retrieval.lite2.consensus_k 0 1000001; finetuning.beam 0 51
finetuning.length_penalty -0.1 10.1; finetuning.max_words 0 1001; finetuning.top_k 0 1000001
finetune.more.cross_entropy -0.1 1.1; finetune.more.samples -1 101; ensemble.both.neighbours -1 1001
ensemble.both.consensus_weight -0.1 1000000.1; evaluate.beams.0 0 51; evaluate.length_penalty -0.1 10.1
evaluate.max_words 0 1001; evaluate.similarity.semantic_dimensions 0 1000001
evaluate.similarity.min_captions 0 1000001; evaluate.similarity.seed -1 4294967296
evaluate.similarity.ridge 0.0 1000000000001.0; evaluate.similarity.semantic_weight -0.1 1000001.0
evaluate.recall_references 0 1001
evaluate.min_words.0 0 1001; evaluate.no_repeat_ngram.0 -1 1001
evaluate.shuffles 0 1001; evaluate.resamples 0 100001; evaluate.seed -1 4294967296; report.gallery 0 1001
"""
OUT_OF_RANGE = [
    (key, float(end) if "." in end else int(end))
    for key, *ends in (entry.split() for entry in re.split("[;\n]", RANGES.strip()))
    for end in ends
]


def with_all_sections() -> Plain:
    """The shipped file with entries in its empty sections."""
    more = {"system": "attention", "config": "lite2", "cross_entropy": 0.2, "samples": 2}
    both = {"members": ["attention.lite2", "finetune.more"], "neighbours": 5, "consensus_weight": 1.0}
    return shipped() | {"finetune": {"more": more}, "ensemble": {"both": both}}


@pytest.mark.parametrize(("key", "value"), OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(CaptionlabError) as caught:
        load(tmp_path, put(with_all_sections(), key, value))
    message = str(caught.value).removeprefix(f"{tmp_path / 'params.yaml'}: ")
    assert re.fullmatch(rf"{re.escape(key)} must be (at least|at most|above|below) \S+, not \S+", message), message


def test_every_number_has_a_range() -> None:
    def numbers(schema: Any) -> Iterator[Plain]:
        inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
        if isinstance(schema, dict) and schema.get("type") in ("integer", "number"):
            yield schema
        for each in inner:
            yield from numbers(each)

    found = list(numbers(TypeAdapter(Params).json_schema()))
    assert len(found) > 50
    lower, upper = ({"minimum", "exclusiveMinimum", "ge", "gt"}, {"maximum", "exclusiveMaximum", "le", "lt"})
    assert [number for number in found if not (number.keys() & lower and number.keys() & upper)] == []


@pytest.mark.parametrize(
    ("section", "name", "message"),
    [
        ("baseline", "v1.5", "baseline: the name 'v1.5' has a dot, which separates keys in DVC; use '_' instead"),
        ("ensemble", "a.b", "ensemble: the name 'a.b' has a dot"),
        ("retrieval", "a.b", "retrieval: the name 'a.b' has a dot"),
        ("extract_features.encoders", "timm_resnet18.a1_in1k", "extract_features.encoders: the name "
         "'timm_resnet18.a1_in1k' has a dot, which separates keys in DVC; write 'timm_resnet18__a1_in1k'"),
        ("extract_features.encoders", "mine.x", "extract_features.encoders: the name 'mine.x' has a dot"),
        ("baseline", "../mine", "baseline: the name '../mine' has a dot"),
        ("baseline", "a/b", "baseline: the name 'a/b' must be letters of A to Z, digits, '_' and '-', beginning"),
        ("finetune", "", "finetune: the name '' must be letters of A to Z"),
        ("baseline", "3x", "baseline: the name '3x' must be letters of A to Z"),
        ("baseline", "\u00e9", "baseline: the name '\u00e9' must be letters of A to Z"),
        ("baseline", "1e3", "baseline: the name '1e3' must be letters of A to Z"),
        ("baseline", "_x", "baseline: the name '_x' must be letters of A to Z"),
        ("baseline", "007", "baseline: the name '007' must be letters of A to Z"),
        ("finetune", 300 * "a", f"finetune: the name '{27 * 'a'}...{28 * 'a'}' is longer than 100 bytes"),
        ("finetune", 30 * "図書館一", "finetune: the name "),
        ("baseline", 2024, "baseline: the name 2024 is not text in YAML; put it in quotes"),
        ("attention", True, "attention: the name True is not text in YAML; put it in quotes"),
        ("modified", None, "modified: the name None is not text in YAML; put it in quotes"),
        ("extract_features.encoders", 1.5, "extract_features.encoders: the name 1.5 is not text in YAML"),
    ],
)  # fmt: skip
def test_an_invalid_name_is_refused(tmp_path: Path, section: str, name: Any, message: str) -> None:
    plain = shipped()
    (plain["extract_features"]["encoders"] if "." in section else plain[section])[name] = {"grid": 0}
    with pytest.raises(CaptionlabError) as caught:
        load(tmp_path, plain)
    assert str(caught.value).startswith(f"{tmp_path / 'params.yaml'}: {message}")


def test_a_quoted_number_is_a_valid_name(tmp_path: Path) -> None:
    plain = shipped()
    assert "2024" in load(tmp_path, put(plain, "baseline.2024", plain["baseline"]["lite0"])).baseline


@pytest.mark.parametrize(("name", "right"), [("../mine", False), ("", False), ("a b", False), ("scenes_v1.5", True)])
def test_the_dataset_name_must_be_a_folder_name(tmp_path: Path, name: str, right: bool) -> None:
    plain = put(shipped(), "dataset.name", name)
    if right:
        assert load(tmp_path, plain).dataset.name == name
        return
    with pytest.raises(CaptionlabError, match=r"dataset\.name: the name '.*' must be that of a folder"):
        load(tmp_path, plain)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("baseline.lite0.input", "baseline.lite0.input is now called embedding"),
        ("training.photos_per_step", "training.photos_per_step is now called batch_size"),
        ("training.average", "training.average is now called ema_decay"),
        ("retrieval.lite2.agreeing", "retrieval.lite2.agreeing is now called consensus_k"),
        ("ensemble.both.agreement", "ensemble.both.agreement is now called consensus_weight"),
        ("attention.lite2.doubly_stochastic", "attention.lite2.doubly_stochastic is now called "
         "training.doubly_stochastic"),
        ("baseline.lite0.training", "baseline.lite0.training.average is now called ema_decay"),
    ],
)  # fmt: skip
def test_a_renamed_key_is_an_error_with_the_new_name(tmp_path: Path, key: str, message: str) -> None:
    value = {"average": 0.9} if key.endswith("training") else 1
    with pytest.raises(CaptionlabError) as caught:
        load(tmp_path, put(with_all_sections(), key, value))
    assert str(caught.value) == f"{tmp_path / 'params.yaml'}: {message}"


def test_a_name_is_of_one_guest(tmp_path: Path) -> None:
    plain = put(put(shipped(), "guests", {"b": {"captions": "b.json"}}), "guest_models", {"b": {"model": "git"}})
    with pytest.raises(CaptionlabError, match=r"'b' is in both guests and guest_models; rename one"):
        load(tmp_path, plain)


def test_scheduled_sampling_needs_teacher_forcing(tmp_path: Path) -> None:
    plain = put(put(shipped(), "attention.lite2.teacher_forcing", value=False), "training.scheduled_sampling", 0.2)
    with pytest.raises(CaptionlabError, match=r"attention\.lite2: training\.scheduled_sampling needs teacher_forcing"):
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


def test_floats_written_by_dvc_are_read(tmp_path: Path) -> None:
    """``dvc exp run -S training.learning_rate=0.00001`` writes 1e-05, which YAML reads as text."""
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    params = load_text(tmp_path, re.sub(r"learning_rate: \S+", "learning_rate: 1e-05", text))
    assert params.training.learning_rate == 0.00001
    assert isinstance(load(tmp_path, put(shipped(), "training.clip_norm", 5)).training.clip_norm, float)


def test_a_configuration_overrides_the_shared_training(tmp_path: Path) -> None:
    plain = put(shipped(), "baseline.lite0.training", {"epochs": 3, "learning_rate": "1e-05"})
    params = load(tmp_path, plain)
    own = params.training_of(params.system("baseline", "lite0"))
    assert (own.epochs, own.learning_rate) == (3, 1e-05)
    assert own.seed == params.training.seed
    assert params.training_of(params.system("baseline", "lite1")) == params.training


def test_unknown_systems_and_configurations_are_refused() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    with pytest.raises(CaptionlabError, match=r"baseline has no configuration 'lite9'; params.yaml has lite0, "):
        params.system("baseline", "lite9")
    with pytest.raises(CaptionlabError, match="unknown system 'transformer'; known: baseline, modified, attention"):
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


def test_the_format_defaults_to_the_name(tmp_path: Path) -> None:
    assert load(tmp_path, put(shipped(), "dataset.name", "flickr8k")).dataset.resolved_format == "flickr8k"
    plain = put(put(shipped(), "dataset.name", "holidays"), "dataset.format", "folder")
    assert load(tmp_path, plain).dataset.resolved_format == "folder"
    for name in FORMATS:
        assert load(tmp_path, put(shipped(), "dataset.format", name)).dataset.resolved_format == name
    unknown = load(tmp_path, put(shipped(), "dataset.name", "holidays"))
    with pytest.raises(CaptionlabError, match=r"dataset\.format must be one of 'auto', 'scenes', .* not 'Folder'$"):
        load(tmp_path, put(plain, "dataset.format", "Folder"))
    with pytest.raises(CaptionlabError, match=r"dataset\.name 'holidays' is not a format; set dataset.format"):
        unknown.dataset.resolved_format  # noqa: B018


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "a: [", "a: 1\na: 2\n", "a: 2020-13-45", "? [a]\n: 1", "!!python/name:os.system"),
        *("&a {b: *a}", "\t", "\0", "[" * 500),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CaptionlabError, match=r"params\.yaml"):
        load_text(tmp_path, text)


def test_a_file_without_configurations_is_refused(tmp_path: Path) -> None:
    plain = shipped()
    for system in ("baseline", "modified", "attention"):
        plain[system] = {}
    with pytest.raises(CaptionlabError, match=r"params\.yaml: it names no configuration of any system; add one"):
        load(tmp_path, plain)


FINETUNED = {"system": "attention", "config": "lite2", "cross_entropy": 0.2}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("finetune.x", FINETUNED | {"samples": 1}, r"samples must be at least 2"),
        ("finetune.x", FINETUNED, r"finetune\.x\.cross_entropy below 1 needs samples, .* or teachers"),
        ("finetune.x", FINETUNED | {"samples": 5, "teachers": ["lite2"]}, r"has both samples, .* and teachers"),
        ("finetune.x", FINETUNED | {"teachers": ["lite3"]}, r"attention has no configuration 'lite3'"),
        ("finetune.x", FINETUNED | {"samples": 5, "cross_entropy": 1.5}, r"cross_entropy must be at most 1, not 1\.5"),
        (
            "finetune.x",
            FINETUNED | {"samples": 5, "system": "caption"},
            r"finetune\.x\.system must be one of baseline, .*, not 'caption'",
        ),
        ("ensemble.x", {"members": []}, r"ensemble\.x\.members must be a list with at least 1 entry"),
        ("ensemble.x", {"members": ["attention.lite3"]}, r"has no member 'attention\.lite3'; choose among"),
        ("ensemble.x", {"members": ["attention.lite2"], "neighbours": 30}, r"must both be 0 or both above 0"),
        ("ensemble.x", {"members": ["attention.lite2"], "consensus_weight": 4.0}, r"must both be 0 or both above 0"),
    ],
)
def test_invalid_rows_of_trained_systems_are_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    with pytest.raises(CaptionlabError, match=message):
        load(tmp_path, put(shipped(), key, value))


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
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
def test_any_value_gives_params_or_a_captionlab_error(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any
) -> None:
    try:
        params = load(tmp_path_factory.mktemp("fuzz"), put(shipped(), key, value))
    except CaptionlabError as error:
        assert "params.yaml" in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert isinstance(params, Params)


def test_a_huge_value_is_shortened_in_the_error(tmp_path: Path) -> None:
    """A few lines with anchors expand to a list of a billion items."""
    laughs = "".join(
        f"- &{name} [{', '.join([f'*{of}'] * 10)}]\n" for of, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text in (f"device:\n- &a [x]\n{laughs}", f"device: 0x{'f' * 5000}"):
        with pytest.raises(CaptionlabError, match=r"params\.yaml: ") as caught:
            load_text(tmp_path, text)
        assert len(str(caught.value)) < 1100
