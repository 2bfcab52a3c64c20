"""What ``captionlab publish`` does: a released captioner as a repository of the Hugging Face Hub.

Knows the Hub's layout. Nothing is sent unless a repository is named.
"""

import dataclasses
import re
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from captionlab import __version__
from captionlab.commands.named import refuse_row_without_checkpoint
from captionlab.commands.release import card
from captionlab.core.files import atomic_folder, write_json
from captionlab.core.records import RELEASED
from captionlab.errors import CaptionlabError, one_line
from captionlab.inference.captioner import Captioner
from captionlab.serving.registry import local_checkpoint

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

WEIGHTS = "model.safetensors"
_SCORES = {"bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr-D"}
_NAME = "OWNER/NAME"
_BUILT_IN = "scenes"  # the format of the drawn scenes, which are under this project's own licence
_LICENCE = "## Licence"  # the card's section
_USE = """
## How to use

```python
from captionlab import Captioner
from huggingface_hub import hf_hub_download

captioner = Captioner.load(hf_hub_download("OWNER/NAME", "model.safetensors"))
print(captioner.caption("photo.jpg")[0].caption)
```
"""


def publish(folder: Path, model: str | None, repository: str | None, *, private: bool = False) -> list[str]:
    """Write the repository's files, and upload them if its name, OWNER/NAME, is given; returns what to tell the user.

    A new repository is public, or ``private``. Raises CaptionlabError for a captioner without scores, a folder that has
    files, and an upload that fails.
    """
    if repository is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise CaptionlabError(f"--repo {repository!r} must be {_NAME}: your user name or organisation, /, and a name")
    if folder.exists() and not folder.is_dir():
        raise CaptionlabError(f"{folder} is not a folder; name a new or empty one")
    if folder.exists() and any(folder.iterdir()):
        raise CaptionlabError(f"{folder} is not empty; name a new or empty folder")
    if model:
        refuse_row_without_checkpoint(model)
    with local_checkpoint(Path.cwd(), model) if model else nullcontext(RELEASED) as path:
        if path.is_dir():
            raise CaptionlabError(f"{model} is an ensemble; only a released system can be published")
        captioner = Captioner.load(path, "cpu")
        if captioner.release is None:
            raise CaptionlabError(
                f"{path} has no scores for its model card; make it the released captioner first (captionlab release)"
            )
        megabytes = path.stat().st_size / 1e6
        text = card(captioner, megabytes, "publish", WEIGHTS)
        with atomic_folder(folder) as temporary:
            shutil.copyfile(path, temporary / WEIGHTS)
            page = f"---\n{_metadata(captioner)}\n---\n\n{text}{_USE.replace(_NAME, repository or _NAME)}"
            (temporary / "README.md").write_text(page, encoding="utf-8", newline="\n")
            write_json(temporary / "config.json", _config(captioner))
            if captioner.release.format != _BUILT_IN:
                licence = text.partition(f"\n{_LICENCE}\n")[2].partition("\n## ")[0]
                (temporary / "LICENSE.md").write_text(f"# Licence\n{licence}\n", encoding="utf-8", newline="\n")
    name, option = captioner.name, " --private" if private else ""
    if repository is None:
        return [
            f"{name} is written to {folder} ({megabytes:.1f} MB); nothing was uploaded",
            f"to upload it: captionlab publish NEW_FOLDER --repo OWNER/NAME{option}, or hf upload OWNER/NAME {folder}"
            f"{option}",
        ]
    return [f"{name} is written to {folder} ({megabytes:.1f} MB)", f"uploaded: {_upload(folder, repository, private)}"]


def _metadata(captioner: Captioner) -> "ModelCardData":
    """What the Hub reads of a model card, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    identity, release = captioner.identity, captioner.release
    assert release is not None
    own = release.format == _BUILT_IN
    results = [
        EvalResult(
            task_type="image-to-text", dataset_type=identity.dataset, dataset_name=identity.dataset,
            dataset_split="test", metric_type=key, metric_name=name, metric_value=round(value, 4),
        )
        for key, name in _SCORES.items()
        if (value := getattr(release.scores, key)) is not None
    ]  # fmt: skip
    return ModelCardData(
        model_name=f"captionlab {identity.system}.{identity.name}", library_name="captionlab", language="en",
        pipeline_tag="image-to-text", tags=["image-captioning"], eval_results=results,
        license="mit" if own else "other",
        license_name=None if own else "terms-of-the-training-data",
        license_link=None if own else "LICENSE.md",
    )  # fmt: skip


def _config(captioner: Captioner) -> dict[str, object]:
    return {
        "model_type": "captionlab",
        "captionlab_version": __version__,
        **dataclasses.asdict(captioner.identity),
        "decoding": dataclasses.asdict(captioner.decoding),
        "vocabulary_size": len(captioner.vocab),
    }


def _upload(folder: Path, repository: str, private: bool) -> str:
    """Create the repository if it is missing, and upload the folder in one commit; returns the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True, private=private)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="captionlab publish")
    except Exception as error:  # those of its HTTP library, which is not always the same
        raise CaptionlabError(
            f"{repository} cannot be uploaded ({one_line(error)[:300]}); {folder} is complete: log in with "
            f"`hf auth login`, then hf upload {repository} {folder}{' --private' if private else ''}"
        ) from error
    return str(commit.commit_url)
