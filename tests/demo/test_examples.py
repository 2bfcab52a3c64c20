"""The example photos of the demo."""

import io

import pytest
from PIL import Image

from captionlab.demo.examples import EXAMPLES, Example, example_photo


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_every_example_is_a_jpeg_with_the_same_bytes_each_time(example: Example) -> None:
    photo = example_photo(example.name)
    example_photo.cache_clear()
    assert example_photo(example.name) == photo
    with Image.open(io.BytesIO(photo or b"")) as image:
        assert image.format == "JPEG"
        assert min(image.size) >= 128


def test_the_drawn_scenes_are_marked() -> None:
    assert [example.name for example in EXAMPLES if not example.drawn] == ["china.jpg", "flower.jpg"]
    assert example_photo("no.jpg") is None
