"""Search spaces: parsing ranges of parameters, sampling points, and points as overrides for DVC's ``-S``.

Knows parameters and Optuna's distributions; nothing of trials.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from captionlab.config import Params, build_system, check_configuration
from captionlab.errors import CaptionlabError

REPORT_B = (
    "embedding,hidden=128,256,512",
    "training.optimizer=adam,rmsprop",
)  # embedding and hidden take the same value
TRIES = 20  # draws per requested point, because a space may have fewer points

Space = dict[str, BaseDistribution]  # by keys; several keys with the same value are joined by commas
Point = Mapping[str, Any]


def read_ranges(ranges: Sequence[str], row: str) -> Space:
    """Parse ranges KEY=VALUE,VALUE and KEY=LOW..HIGH[:log]; the default is report B's search.

    A key may begin with the configuration's ``row``, as for ``-S``. Raises CaptionlabError for an invalid range.
    """
    space: Space = {}
    seen: set[str] = set()
    for text in ranges or REPORT_B:
        left, equals, right = text.replace(" ", "").partition("=")
        keys = [key.removeprefix(f"{row}.") for key in left.split(",")]
        if not equals or not all(keys) or not right:
            raise CaptionlabError(
                f"invalid --range {text!r}; write KEY=VALUE,VALUE or KEY=LOW..HIGH or KEY=LOW..HIGH:log"
            )
        for key in keys:
            if key in seen:
                raise CaptionlabError(f"{key} has two ranges; give it one")
            seen.add(key)
        space[",".join(keys)] = _distribution(text, right)
    return space


def _distribution(text: str, values: str) -> BaseDistribution:
    ends = re.fullmatch(r"(.+?)\.\.(.+?)(:log)?", values)
    if not ends:
        choices = [_scalar(text, value) for value in values.split(",")]
        if len(set(choices)) < len(choices):
            raise CaptionlabError(f"--range {text!r} has a value twice")
        return CategoricalDistribution(choices)
    low, high = (_scalar(text, value) for value in ends.group(1, 2))
    if any(isinstance(end, (bool, str)) for end in (low, high)) or not low < high or (ends[3] and low <= 0):
        raise CaptionlabError(f"--range {text!r} must have two numbers, the lower first, and above zero with :log")
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    return kind(low, high, log=bool(ends[3]))


def _scalar(text: str, value: str) -> Any:
    try:
        scalar = YAML(typ="safe").load(value)
    except YAMLError:
        scalar = None
    if not isinstance(scalar, (bool, int, float, str)):
        raise CaptionlabError(f"--range {text!r}: {value!r} is not a valid value in params.yaml")
    return scalar


def corners(distribution: BaseDistribution) -> Sequence[Any]:
    """The values to validate: all choices, or both bounds."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    numbers = cast(FloatDistribution, distribution)
    return (numbers.low, numbers.high)


def grid(space: Space) -> list[Point]:
    """Every point of a discrete space; raises CaptionlabError for a range LOW..HIGH."""
    for keys, distribution in space.items():
        if not isinstance(distribution, CategoricalDistribution):
            raise CaptionlabError(f"a grid needs values instead of bounds: --range {keys}=VALUE,VALUE")
    choices = (corners(distribution) for distribution in space.values())
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]


def draw(space: Space, seed: int, count: int) -> list[Point]:
    """``count`` distinct random points, or fewer in a small space; a smaller count gives a prefix of a larger one."""
    points: list[Point] = []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    for _ in range(TRIES * count):
        if len(points) == count:
            break
        point = {keys: _short(space[keys], value) for keys, value in study.ask(space).params.items()}
        if point not in points:
            points.append(point)
    return points


def _short(distribution: BaseDistribution, value: Any) -> Any:
    """Round a sampled float to four significant digits, for readability."""
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.4g}"), distribution.low), distribution.high)


def changed(params: Params, system: str, config: str, point: Point) -> Params:
    """The parameters with a point's values in one configuration, validated like params.yaml."""
    values = dataclasses.asdict(params.system(system, config))
    for keys, value in point.items():
        for key in keys.split(","):
            if key.startswith("training."):
                values["training"] = {**values["training"], key.removeprefix("training."): value}
            else:
                values[key] = value
    built = build_system(system, values)
    params = dataclasses.replace(params, **{system: {**getattr(params, system), config: built}})  # type: ignore[arg-type]
    check_configuration(params, f"{system}.{config}", built)
    return params


def overrides(path: Path, row: str, point: Point) -> list[str]:
    """A point as arguments of DVC's ``-S``; keys that are not in the file begin with a plus."""
    system, _, config = row.partition(".")
    there = YAML(typ="safe").load(path)[system][config]
    written = []
    for keys, value in point.items():
        for key in keys.split(","):
            section, _, name = key.rpartition(".")
            known = name in (there.get(section, {}) if section else there)
            text = value if isinstance(value, str) else json.dumps(value)
            written.append(f"{'' if known else '+'}{row}.{key}={text}")
    return written
