"""The folder of a dataset's photos and captions, as ``dataset.source`` names it. Knows nothing of formats."""

import os
from pathlib import Path

from captionlab.core.files import read_yaml
from captionlab.errors import CaptionlabError


def source_folder(root: Path, source: str) -> Path:
    """The folder; raises CaptionlabError where there is none."""
    folder = root / source
    if not os.path.isdir(folder):  # Path.is_dir raises an error where the folder above may not be entered
        raise CaptionlabError(f"dataset.source {source} is not a folder; set it to the folder of the dataset")
    return folder


def is_imported(root: Path, source: str) -> bool:
    """Whether data.dvc imports the folder, so that ``dvc repro`` makes it where it does not exist yet."""
    path = root / "data.dvc"
    return path.exists() and source in [out["path"] for out in read_yaml(path, "").get("outs", [])]
