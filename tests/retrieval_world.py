"""Training features and captions of dogs and boats."""

import numpy as np

DOGS = ["a dog runs over the grass", "a black dog runs over grass", "the dog runs"]


BOATS = ["a boat sails on the lake", "a boat on the lake", "white boat in the sun"]


ODD = ["a quagga sleeps beside a xylophone"]


def words(*captions: str) -> list[tuple[str, ...]]:
    return [tuple(caption.split()) for caption in captions]


def photos(*directions: tuple[float, float]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Features in these directions, with a different scale in each dimension, so that standardisation matters."""
    return np.array(directions, dtype=np.float32) * np.array([1000.0, 1.0], dtype=np.float32)


TRAINING = photos((1, 0.9), (1, 1.1), (0.9, 1), (-1, -1), (-1, -0.9), (-0.9, -1))


CAPTIONS = [words(*DOGS[:2]), words(*ODD), words(DOGS[2]), words(*BOATS[:2]), words(*ODD), words(BOATS[2])]
