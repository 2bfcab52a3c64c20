"""Attribute accuracy on drawn scenes: which attributes a caption mentions, and how many are right.

Uses the word lists that come with the drawn scenes. Knows nothing of files or systems.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ATTRIBUTES = ("kind", "colour", "count", "place", "action")

Words = Sequence[str]
Row = Mapping[str, Any]  # of truth.jsonl, or words.json as a whole


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What a caption says of the first object it mentions, and of the place. None or empty: not mentioned."""

    kinds: tuple[str, ...] = ()  # one, or those that a general word such as "animal" may mean
    colour: str | None = None
    count: int | None = None
    actions: tuple[str, ...] = ()  # those that the word may mean
    place: str | None = None


def read(words: Words, meaning: Row) -> Attributes:
    """Find the attributes that a caption mentions.

    Only the first object is read, which every caption names; words after the second one describe others. A colour
    describes the next object or, before a garment, the person who wears it.
    """
    place = next((meaning["places"][word] for word in words if word in meaning["places"]), None)
    kinds: tuple[str, ...] = ()
    own_colour = own_count = colour = count = None
    actions: tuple[str, ...] = ()
    for word in words:
        if word in meaning["kinds"] or word in meaning["general"]:
            if kinds:
                break
            kinds = (meaning["kinds"][word],) if word in meaning["kinds"] else tuple(meaning["general"][word])
            own_colour, own_count = colour, count
            colour = None
        elif word in meaning["colours"]:
            colour = word
        elif word in meaning["garments"]:
            own_colour, colour = colour, None
        elif word in meaning["counts"]:
            count = meaning["counts"][word]
        elif word in meaning["actions"] and kinds and not actions:
            actions = tuple(meaning["actions"][word])
    return Attributes(kinds=kinds, colour=own_colour, count=own_count, actions=actions, place=place)


def compare(found: Attributes, truth: Row) -> dict[str, bool | None]:
    """Whether each attribute is right; None if the caption does not mention it.

    The object is compared with the scene's first actor of that kind or, if no actor is of that kind, with the first
    actor: a red bird called a red kite has the wrong kind and the right colour.
    """
    actors = truth["actors"]
    actor = next((actor for actor in actors if actor["kind"] in found.kinds), actors[0])
    return {
        "kind": actor["kind"] in found.kinds if len(found.kinds) == 1 else None,
        "colour": None if found.colour is None else found.colour == actor["colour"],
        "count": None if found.count is None else found.count == actor["count"],
        "place": None if found.place is None else found.place == truth["place"],
        "action": actor["action"] in found.actions if found.actions else None,
    }


def accuracy(captions: Mapping[str, Words], truth: Sequence[Row], meaning: Row) -> dict[str, dict[str, Any]]:
    """For ``seen`` scenes and for ``unseen`` ones, which show a pair that no training scene shows.

    Of each attribute: the share of the captions that mention it (``said``) and, of these, the share where it is
    ``right`` (None if no caption mentions it).
    """
    parts: dict[str, list[Row]] = {"seen": [], "unseen": []}
    for row in truth:
        if row["image"] in captions:
            parts["unseen" if row["unseen"] else "seen"].append(row)
    return {part: _shares(captions, rows, meaning) for part, rows in parts.items()}


def _shares(captions: Mapping[str, Words], truth: Sequence[Row], meaning: Row) -> dict[str, Any]:
    compared = [compare(read(captions[row["image"]], meaning), row) for row in truth]
    shares: dict[str, Any] = {"scenes": len(truth)}
    for attribute in ATTRIBUTES:
        said = [right for row in compared if (right := row[attribute]) is not None]
        shares[attribute] = {
            "said": round(len(said) / len(compared), 6) if compared else None,
            "right": round(sum(said) / len(said), 6) if said else None,
        }
    return shares
