"""The selection of the gallery's photos."""

import pytest

from captionlab.evaluation.gallery import select


def test_photos_are_spread_over_the_ranking() -> None:
    scores = dict(zip("abcdefghi", (0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6), strict=True))
    chosen = select(scores, 4)
    assert {name: len(images) for name, images in chosen.items()} == {"best": 2, "middle": 1, "worst": 1}
    values = [scores[image] for images in chosen.values() for image in images]
    assert values == sorted(values, reverse=True)
    assert values[0] >= 0.7
    assert values[-1] <= 0.3


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_requesting_too_many_photos_gives_all_of_them(count: int) -> None:
    scores = {f"{i}.jpg": float(i % 4) for i in range(count)}
    shown = [image for images in select(scores, 99).values() for image in images]
    assert sorted(shown) == sorted(scores)
    assert [scores[image] for image in shown] == sorted(scores.values(), reverse=True)


def test_equal_scores_keep_their_order() -> None:
    assert select(dict.fromkeys("abc", 0.0), 3) == {"best": ["a"], "middle": ["b"], "worst": ["c"]}
