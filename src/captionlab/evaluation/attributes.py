"""What a caption says of a drawn scene, and whether it is so. Words and the scene's truth in, numbers out.

Reads with the word lists that the drawn scenes bring along; knows nothing of files or systems.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ATTRIBUTES = ("kind", "colour", "count", "place", "action")

Words = Sequence[str]
Row = Mapping[str, Any]  # of truth.jsonl, or words.json as a whole


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a caption says of the first thing it mentions, and where. None or empty: it does not say."""

    kinds: tuple[str, ...] = ()  # one, or those that a wider word such as "animal" may mean
    colour: str | None = None
    count: int | None = None
    actions: tuple[str, ...] = ()  # those that the word may mean
    place: str | None = None


def read(words: Words, meaning: Row) -> Claim:
    """Find what a caption claims.

    Only the first thing is read, which every caption names; what stands behind the second belongs to others. A colour
    belongs to the next thing, or, before a garment, to who wears it.
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
    return Claim(kinds=kinds, colour=own_colour, count=own_count, actions=actions, place=place)


def judge(claim: Claim, truth: Row) -> dict[str, bool | None]:
    """Whether each attribute is right; None where the caption does not say.

    The thing is compared with the scene's first actor of that kind or, where no actor is of that kind, with its
    first actor: a red bird called a red kite has the wrong kind and the right colour.
    """
    actors = truth["actors"]
    actor = next((actor for actor in actors if actor["kind"] in claim.kinds), actors[0])
    return {
        "kind": actor["kind"] in claim.kinds if len(claim.kinds) == 1 else None,
        "colour": None if claim.colour is None else claim.colour == actor["colour"],
        "count": None if claim.count is None else claim.count == actor["count"],
        "place": None if claim.place is None else claim.place == truth["place"],
        "action": actor["action"] in claim.actions if claim.actions else None,
    }


def accuracy(captions: Mapping[str, Words], truth: Sequence[Row], meaning: Row) -> dict[str, dict[str, Any]]:
    """For ``seen`` scenes and ``unseen`` ones, which show a pair that no training scene shows: of each attribute the
    share of the captions that ``said`` it and, of these, the share that got it ``right`` (None if none said it)."""
    parts: dict[str, list[Row]] = {"seen": [], "unseen": []}
    for row in truth:
        if row["image"] in captions:
            parts["unseen" if row["unseen"] else "seen"].append(row)
    return {part: _shares(captions, rows, meaning) for part, rows in parts.items()}


def _shares(captions: Mapping[str, Words], truth: Sequence[Row], meaning: Row) -> dict[str, Any]:
    judged = [judge(read(captions[row["image"]], meaning), row) for row in truth]
    shares: dict[str, Any] = {"scenes": len(truth)}
    for attribute in ATTRIBUTES:
        said = [verdict for row in judged if (verdict := row[attribute]) is not None]
        shares[attribute] = {
            "said": round(len(said) / len(judged), 6) if judged else None,
            "right": round(sum(said) / len(said), 6) if said else None,
        }
    return shares
