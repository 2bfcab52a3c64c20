"""Caption retrieval: the neighbours, and the caption with the highest consensus."""

import numpy as np
import pytest

from captionlab.config import SimilarityParams
from captionlab.evaluation.retrieval import Retriever, _tf_idf
from captionlab.metrics.cider import CiderD
from retrieval_world import BOATS, CAPTIONS, DOGS, ODD, TRAINING, photos, words

SIMILARITY = SimilarityParams(semantic_dimensions=200, min_captions=3, seed=0, ridge=1000.0, semantic_weight=1.0)


def test_the_caption_with_the_best_consensus_of_similar_photos_is_retrieved() -> None:
    retriever = Retriever(TRAINING, CAPTIONS, consensus_k=2)
    dog, boat = retriever.captions(photos((2, 2), (-3, -2.9)), neighbours=3)
    assert " ".join(dog) in DOGS[:2]  # not the outlier
    assert " ".join(boat) in BOATS[:2]


def test_one_neighbour_gives_its_only_caption() -> None:
    retriever = Retriever(TRAINING, CAPTIONS, consensus_k=125)
    assert retriever.captions(TRAINING[[1, 5]], neighbours=1) == words(ODD[0], BOATS[2])


def test_too_many_neighbours_are_all_photos() -> None:
    retriever = Retriever(TRAINING, CAPTIONS, consensus_k=125)
    assert retriever.captions(photos((2, 2)), neighbours=60) == retriever.captions(photos((2, 2)), neighbours=6)
    assert retriever.without_photo(60) in [own for photo in CAPTIONS for own in photo]


def test_short_captions_and_a_single_photo_work() -> None:
    retriever = Retriever(TRAINING[:2], [words("dog"), words("dog")], consensus_k=3)
    assert retriever.captions(TRAINING[:1], neighbours=2) == [("dog",)]


def test_semantic_neighbours_show_the_same_content() -> None:
    """One feature separates dogs from boats; forty random ones hide it from nearest neighbours by appearance."""
    random = np.random.default_rng(0)
    shows_boat = np.arange(220) % 2
    looks = random.normal(size=(220, 41)).astype(np.float32)
    looks[:, 0] += 3 * shows_boat
    captions = [words(BOATS[i % 3] if boat else DOGS[i % 3]) for i, boat in enumerate(shows_boat)]
    shares = []
    for by_meaning in (None, SIMILARITY):
        retriever = Retriever(looks[:200], captions[:200], consensus_k=1, by_meaning=by_meaning)
        dogs_and_boats = np.array(retriever.consensus([words(DOGS[1], BOATS[1])] * 20, looks[200:], 5))
        shares.append((dogs_and_boats.argmax(1) == shows_boat[200:]).mean())
    assert shares[1] > shares[0]
    assert shares[1] >= 0.8


def test_the_number_of_semantic_dimensions_is_respected() -> None:
    how = SimilarityParams(semantic_dimensions=2, min_captions=1, seed=0, ridge=3.0, semantic_weight=1.0)
    retriever = Retriever(TRAINING, CAPTIONS, consensus_k=1, by_meaning=how)
    assert retriever._search.n_features_in_ == TRAINING.shape[1] + 2
    assert retriever._ridge is not None
    assert retriever._ridge.alpha == 3.0


def test_semantic_retrieval_works_with_few_photos() -> None:
    retriever = Retriever(TRAINING[:2], [words("dog"), words("boat")], consensus_k=1, by_meaning=SIMILARITY)
    dog, boat = np.array(retriever.consensus([words("dog", "boat")] * 2, TRAINING[:2], 1))
    assert dog.argmax() == 0
    assert boat.argmax() == 1


def test_vector_products_equal_the_cosines_of_cider() -> None:
    """For captions of equal length without repeated words, on which CIDEr-D's penalty and clipping have no effect."""
    captions = words(
        "a dog runs over green grass", "a dog sits on green grass", "the boats sail over blue water",
        "two boats sit over blue water",
    )  # fmt: skip
    vectors = _tf_idf(captions, np.arange(4))
    product = (vectors @ vectors.T).toarray()
    cider = CiderD([[own] for own in captions])
    expected = [[cider.scores([one], [[other]])[0] / 10 for other in captions] for one in captions]
    # CIDEr-D clips a weight to the reference's, which is equal if each n-gram occurs once
    np.testing.assert_allclose(product, expected, atol=1e-6)


@pytest.mark.parametrize("consensus_k", [1, 2, 125])
def test_consensus_is_the_mean_over_the_most_similar_captions(consensus_k: int) -> None:
    """Compared with the definition, one candidate at a time."""
    retriever = Retriever(TRAINING, CAPTIONS, consensus_k=consensus_k)
    (found,) = retriever.captions(photos((2, 2)), neighbours=6)
    candidates = [own for photo in CAPTIONS for own in photo]
    vectors = _tf_idf(candidates, np.repeat(np.arange(6), [2, 1, 1, 2, 1, 1])).toarray()

    def agreement(place: int) -> float:
        alike = [
            float(vectors[place] @ vectors[other]) * np.exp(-((len(words) - len(candidates[place])) ** 2) / 72)
            for other, words in enumerate(candidates)
            if other != place
        ]
        return float(np.mean(sorted(alike, reverse=True)[:consensus_k]))

    best = max(map(agreement, range(len(candidates))))
    assert max(agreement(i) for i, own in enumerate(candidates) if own == found) == pytest.approx(best, abs=1e-6)
