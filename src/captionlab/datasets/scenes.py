"""The built-in dataset: drawn scenes, each with five captions and a record of what it shows (the truth).

Knows ``grammar.yaml``: what may appear together, how captions describe it, and which pairs only the test split shows.
``drawing`` draws the scenes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from random import Random
from string import Formatter
from typing import Any

from tqdm import tqdm

from captionlab.config import ScenesParams
from captionlab.core.files import read_yaml
from captionlab.core.records import SPLITS, CaptionedImage, Split
from captionlab.datasets.drawing import Actor, Scene, draw_scene, width_of
from captionlab.datasets.drawing.figures import FIGURES
from captionlab.datasets.drawing.pen import Colour
from captionlab.datasets.drawing.places import PLACES
from captionlab.errors import CaptionlabError

CAPTIONS = 5  # per scene
_QUALITY = 92  # JPEG
_MAX_FIGURES = 4  # in the foreground
_MAX_WIDTH = 3.7  # of these figures side by side, in heights of an adult; wider rows would be drawn too small
_TRIES = 10_000
_COUNTS = {1: 60, 2: 25, 3: 15}  # weights
_ACTORS = {1: 40, 2: 42, 3: 18}
_NUMBERS = {2: "two", 3: "three"}
_ALONE = frozenset("A a general acts acting is where here".split())  # placeholders of the templates of each form
_SLOTS = {
    "alone": _ALONE,
    "beside": _ALONE | {"B", "b", "relation"},
    "deed": _ALONE | {"B", "b", "does", "doing"},
    "third": frozenset({"C", "c", "acts_c"}),
}
_SECTIONS = ("colours", "places", "actions", "kinds", "relations", "templates", "held_out")


def scenes(source: Path, params: ScenesParams, images: Path) -> tuple[list[CaptionedImage], list[dict[str, Any]]]:
    """Draw every scene into ``images`` (224x224 JPEG); returns the captions and, in the same order, the truth.

    Scene i of a split depends only on the seed, the split and i, so a larger split begins with the smaller one.
    ``source`` is the folder of grammar.yaml. Raises CaptionlabError if that file is missing or invalid.
    """
    grammar = _Grammar(source / "grammar.yaml")
    todo = [(split, number) for split in SPLITS for number in range(getattr(params, split))]
    records, truth = [], []
    for split, number in tqdm(todo, "drawing scenes", leave=False, disable=None):
        rng = Random(f"{params.seed} {split} {number}")
        scene = grammar.scene(rng, unseen=split == "test" and _is_due(number, grammar.unseen_share))
        name = f"{split}_{number:05d}.jpg"
        records.append(CaptionedImage(image=name, split=split, captions=grammar.captions(scene, rng)))
        truth.append(_truth(name, split, scene, grammar.unseen_pairs(scene)))
        draw_scene(scene, grammar.colours, rng).save(images / name, quality=_QUALITY, subsampling=0)
    return records, truth


def scene_words(source: Path) -> dict[str, Any]:
    """The meaning of the captions' words in terms of the truth, for checking captions against it.

    ``kinds``, ``places`` and ``counts`` map each word to one meaning; ``general`` maps a general word to kinds, and
    ``actions`` a word to actions; ``colours`` and ``garments`` are lists.
    """
    return _Grammar(source / "grammar.yaml").words()


def _is_due(number: int, share: float) -> bool:
    """Whether the number belongs to a share of all numbers that is spread evenly."""
    return math.floor((number + 1) * share) > math.floor(number * share)


def _truth(image: str, split: Split, scene: Scene, unseen: list[tuple[str, str]]) -> dict[str, Any]:
    actors = [
        {"kind": actor.kind, "colour": actor.colour, "count": actor.count, "action": actor.action}
        for actor in scene.actors
    ]
    row = {"image": image, "split": split, "place": scene.place, "actors": actors, "relation": scene.relation}
    return {**row, "unseen": [list(pair) for pair in unseen]}


def _weighted(rng: Random, weights: dict[int, int]) -> int:
    return rng.choices(list(weights), list(weights.values()))[0]


@dataclass(frozen=True)
class _Phrase:
    """An actor in words."""

    full: str  # "two black dogs", "a man in a red shirt"
    plain: str  # "two dogs", "a man"
    general: str  # "two animals", "a person"


class _Grammar:
    """The scenes that grammar.yaml allows, and their captions."""

    def __init__(self, path: Path) -> None:
        raw = _load(path)
        self._places: dict[str, dict[str, list[str]]] = raw["places"]
        self._actions: dict[str, Any] = raw["actions"]
        self._kinds: dict[str, Any] = raw["kinds"]
        self._relations: dict[str, Any] = raw["relations"]
        self._templates: dict[str, list[str]] = raw["templates"]
        self._held_out = {(first, second) for first, second in raw["held_out"]["pairs"]}
        self.unseen_share = float(raw["held_out"]["share"])
        self.colours: dict[str, Colour] = {name: (r, g, b) for name, (r, g, b) in raw["colours"].items()}

    # --- the scenes

    def scene(self, rng: Random, *, unseen: bool) -> Scene:
        """A scene with a held-out pair or without one."""
        for _ in range(_TRIES):
            scene = self._any_scene(rng)
            if scene and bool(self.unseen_pairs(scene)) == unseen:
                return scene
        raise CaptionlabError(
            f"grammar.yaml allows no scene {'with' if unseen else 'without'} a held-out pair; see held_out and kinds"
        )

    def unseen_pairs(self, scene: Scene) -> list[tuple[str, str]]:
        """The (colour, kind) and (kind, place) pairs of the scene that only test scenes show."""
        pairs = [pair for actor in scene.actors for pair in ((actor.colour, actor.kind), (actor.kind, scene.place))]
        return [pair for pair in pairs if pair in self._held_out]

    def _any_scene(self, rng: Random) -> Scene | None:
        """A random scene, or None if its randomly chosen parts do not fit together."""
        place = rng.choice(list(self._places))
        kinds = [kind for kind, entry in self._kinds.items() if place in entry["places"]]
        number = min(_weighted(rng, _ACTORS), len(kinds))
        # Weighted sampling without replacement: kinds with few places are more frequent there, or boats would be rare.
        keys = {kind: rng.random() ** math.sqrt(len(self._kinds[kind]["places"])) for kind in kinds}
        chosen = sorted(kinds, key=keys.__getitem__, reverse=True)[:number]
        relation = rng.choice(list(self._relations)) if number > 1 else None
        if relation is not None and "forms" in self._relations[relation]:
            roles = [rng.choice(list(self._relations[relation][role])) for role in ("subject", "object")]
            chosen = [*roles, *chosen[2:]]
            if len(set(chosen)) < number or not set(chosen) <= set(kinds):
                return None
        allowed = [self._fitting_actions(kind, place) for kind in chosen]
        most = 3
        if relation is not None:
            terms = self._relations[relation]
            most = terms.get("most", most)
            for i, role in enumerate(("subject", "object")):
                actions = terms[role][chosen[i]] if "forms" in terms else allowed[i]
                ways = terms.get("ways", self._places[place])
                allowed[i] = [a for a in actions if self._way(a) in ways and self._way(a) in self._places[place]]
        if not all(allowed):
            return None
        actors = []
        for i, (kind, actions) in enumerate(zip(chosen, allowed, strict=True)):
            count = min(_weighted(rng, _COUNTS), most if i < 2 else 2)
            colour = rng.choice(self._kinds[kind]["colours"])
            actors.append(Actor(kind=kind, colour=colour, count=count, action=rng.choice(actions)))
        near = actors[:2]
        if sum(actor.count for actor in near) > _MAX_FIGURES or sum(map(width_of, near)) > _MAX_WIDTH:
            return None
        return Scene(place=place, actors=tuple(actors), relation=relation)

    def _way(self, action: str) -> str:
        return str(self._actions[action]["way"])

    def _fitting_actions(self, kind: str, place: str) -> list[str]:
        return [action for action in self._kinds[kind]["actions"] if self._way(action) in self._places[place]]

    # --- the captions

    def words(self) -> dict[str, Any]:
        """The result of ``scene_words``."""
        kinds: dict[str, str] = {}
        general: dict[str, list[str]] = {}
        actions: dict[str, list[str]] = {}
        for kind, entry in self._kinds.items():
            kinds |= {kind: kind, entry["plural"]: kind}
            for word in entry["general"]:
                general.setdefault(word, []).append(kind)
        for action, entry in self._actions.items():
            for word in {word for forms in entry["forms"] for word in forms}:
                actions.setdefault(word, []).append(action)
        phrases = [(phrase, place) for place, ways in self._places.items() for own in ways.values() for phrase in own]
        return {
            "kinds": kinds,
            "general": general,
            "colours": list(self.colours),
            "garments": sorted({word for entry in self._kinds.values() for word in entry.get("wears", [])}),
            "counts": {"a": 1, "an": 1, **{word: count for count, word in _NUMBERS.items()}},
            "places": {phrase.split()[-1]: place for phrase, place in phrases},  # the last word, as in "on a lawn"
            "actions": dict(sorted(actions.items())),
        }

    def captions(self, scene: Scene, rng: Random) -> tuple[str, ...]:
        """Five different sentences, each from a different template."""
        form = "alone"
        if scene.relation is not None:
            form = "deed" if "forms" in self._relations[scene.relation] else "beside"
        sentences: list[str] = []
        for template in rng.sample(self._templates[form], CAPTIONS):
            if len(scene.actors) == 3 and rng.random() < 0.7:
                template += " " + rng.choice(self._templates["third"])
            sentence = template.format(**self._words(scene, rng))
            sentences.append(f"{sentence[0].upper()}{sentence[1:]} .")
        return tuple(sentences)

    def _words(self, scene: Scene, rng: Random) -> dict[str, str]:
        """The values of the placeholders of templates."""
        first = scene.actors[0]
        phrases = [self._phrase(actor, rng) for actor in scene.actors]
        words = {letter.upper(): phrase.full for letter, phrase in zip("abc", phrases, strict=False)}
        words |= {letter: phrase.plain for letter, phrase in zip("abc", phrases, strict=False)}
        words |= {"general": phrases[0].general, "is": "are" if first.count > 1 else "is"}
        words |= dict(zip(("acts", "acting"), self._verb(first, rng), strict=True))
        ways = self._places[scene.place]
        way = self._way(first.action)
        words["where"] = rng.choice(ways[way])
        words["here"] = rng.choice(ways["still" if way == "move" and "still" in ways else way])
        if scene.relation is not None:
            words["relation"] = scene.relation
            one, many, doing = self._relations[scene.relation].get("forms", ("", "", ""))
            words |= {"does": many if first.count > 1 else one, "doing": doing}
        if len(scene.actors) == 3:
            words["acts_c"] = self._verb(scene.actors[2], rng)[0]
        return words

    def _verb(self, actor: Actor, rng: Random) -> tuple[str, str]:
        one, many, doing = rng.choice(self._actions[actor.action]["forms"])
        return (many if actor.count > 1 else one), doing

    def _phrase(self, actor: Actor, rng: Random) -> _Phrase:
        entry = self._kinds[actor.kind]
        several = actor.count > 1
        noun = entry["plural"] if several else actor.kind
        adjectives = entry.get("adjectives", [])
        if adjectives and rng.random() < 0.35:
            noun = f"{rng.choice(adjectives)} {noun}"
        if "wears" in entry:
            verb = rng.choice(("in", "in", "wearing"))
            garment = f"{actor.colour} {entry['wears'][1]}" if several else _one(f"{actor.colour} {entry['wears'][0]}")
            full = f"{self._counted(noun, actor.count)} {verb} {garment}"
        else:
            full = self._counted(f"{actor.colour} {noun}", actor.count)
        general = self._counted(entry["general"][several], actor.count)
        return _Phrase(full, self._counted(noun, actor.count), general)

    @staticmethod
    def _counted(noun: str, count: int) -> str:
        return _one(noun) if count == 1 else f"{_NUMBERS[count]} {noun}"


def _one(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# --- reading and checking grammar.yaml


def _load(path: Path) -> dict[str, Any]:
    """Read and check grammar.yaml. Raises CaptionlabError, with the entry, for anything that would fail later."""
    raw = read_yaml(path, "run `dvc repro`, or set dataset.source to the folder with grammar.yaml")
    try:
        _check(raw)
    except CaptionlabError as error:
        raise CaptionlabError(f"{path}: {error}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CaptionlabError(f"{path} does not have the structure of assets/scenes/grammar.yaml: {error!r}") from error
    return dict(raw)


def _check(raw: Any) -> None:
    for section in _SECTIONS:
        if not isinstance(raw, dict) or not raw.get(section):
            raise CaptionlabError(f"the section {section!r} is missing or empty")
    colours, places, actions, kinds = raw["colours"], raw["places"], raw["actions"], raw["kinds"]
    _known("a colour of three numbers from 0 to 255", [n for n, rgb in colours.items() if _is_colour(rgb)], colours)
    _known("a place that can be drawn", PLACES, places)
    _known("a kind that can be drawn", FIGURES, kinds)
    _known("a place that some kind is at", {place for entry in kinds.values() for place in entry["places"]}, places)
    for place, ways in places.items():
        for way, phrases in ways.items():
            _words(f"places.{place}.{way}", phrases)
    for kind, entry in kinds.items():
        _words(f"kinds.{kind}.colours", entry["colours"])
        _known(f"a colour (kinds.{kind})", colours, entry["colours"])
        _known(f"a place (kinds.{kind})", places, entry["places"])
        _known(f"an action (kinds.{kind})", actions, entry["actions"])
        _pair(f"kinds.{kind}.general", entry["general"])
        _pair(f"kinds.{kind}.wears", entry.get("wears", ["", ""]))
        _words(f"kinds.{kind}.plural", [entry["plural"]])
    for action, entry in actions.items():
        _known(
            f"a way of any place (actions.{action})", {way for ways in places.values() for way in ways}, [entry["way"]]
        )
        if not entry["forms"]:
            raise CaptionlabError(f"actions.{action}.forms is empty")
        for forms in entry["forms"]:
            _three_forms(f"actions.{action}.forms", forms)
    for relation, terms in raw["relations"].items():
        _three_forms(f"relations.{relation}.forms", terms.get("forms", ["", "", ""]))
        for role in ("subject", "object") if "forms" in terms else ():
            _known(f"a kind (relations.{relation})", kinds, terms[role])
            for doings in terms[role].values():
                _known(f"an action (relations.{relation})", actions, doings)
    for form, slots in _SLOTS.items():
        for template in raw["templates"][form]:
            try:
                words = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
            except ValueError as error:
                raise CaptionlabError(f"templates.{form} ({template}): {error}") from None
            _known(f"a word of templates.{form} ({template})", slots, words)
    for form in ("alone", "beside", "deed"):
        if len(set(raw["templates"][form])) < CAPTIONS:
            raise CaptionlabError(f"templates.{form} needs {CAPTIONS} different templates or more")
    for first, second in raw["held_out"]["pairs"]:
        if not ((first in colours and second in kinds) or (first in kinds and second in places)):
            raise CaptionlabError(f"held_out.pairs: {first}, {second} is neither colour, kind nor kind, place")
    if not 0 <= float(raw["held_out"]["share"]) <= 1:
        raise CaptionlabError("held_out.share must be from 0 to 1")


def _is_colour(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(c, int) and 0 <= c <= 255 for c in value)


def _known(what: str, known: Any, names: Any) -> None:
    for name in names:
        if name not in known:
            raise CaptionlabError(f"{name!r} is not {what}")


def _pair(key: str, value: Any) -> None:
    _words(key, value)
    if len(value) != 2:
        raise CaptionlabError(f"{key} must be two words: for one, for several")


def _three_forms(key: str, value: Any) -> None:
    _words(key, value)
    if len(value) != 3:
        raise CaptionlabError(f"{key} needs three words each: runs, run, running")


def _words(key: str, value: Any) -> None:
    if not value or not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise CaptionlabError(f"{key} must be words, not {value!r:.80}")
