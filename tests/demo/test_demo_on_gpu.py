"""The demo's server on an NVIDIA GPU, which it uses from a worker thread."""

import json
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from captionlab.demo.examples import example_photo

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(find_spec("uvicorn") is None, reason="uvicorn, which serves the demo, is not installed"),
]


def test_every_system_describes_the_photos_it_knows(demo_root: Path) -> None:
    from demo_project import KNOWN, demo

    with demo(demo_root) as port:
        for example in KNOWN:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/caption", example_photo(example.name)) as answer:
                systems = json.load(answer)["systems"]
            said = [" ".join(own["captions"][0]["words"]) for own in systems if own["name"] == "tiny"]
            assert said == [example.label.lower()] * 2
