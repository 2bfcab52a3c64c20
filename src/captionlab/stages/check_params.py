"""Stage ``check_params``: it comes first and always runs, so that a wrong params.yaml is refused before any work."""

from pathlib import Path

from captionlab.config import Params
from captionlab.core.dataset_source import is_imported, source_folder
from captionlab.core.files import write_text
from captionlab.core.records import FEATURES, PARAMS_VALID
from captionlab.core.results.guests import guest_folder, read_guest
from captionlab.errors import CaptionlabError


def check_params(params: Params, root: Path) -> list[str]:
    """Say what params.yaml holds; every stage's command checks it before it calls the stage.

    The first stage that reads data depends on the file written, so that this one runs before any other, for a single
    target too. Raises CaptionlabError as ``check`` does.
    """
    check(params, root)
    write_text(root / PARAMS_VALID, "params.yaml is valid\n")
    return [f"check_params: params.yaml is valid; {len(params.rows())} configurations"]


def check(params: Params, root: Path) -> None:
    """Raise CaptionlabError at the first parameter that does not fit the project; nothing is written.

    That is a dataset without a format, another dataset with the name scenes, a folder or a file that is missing, an
    encoder that captionlab does not know, and a model that has not captioned yet and is not on this machine.
    """
    if params.dataset.resolved_format != "scenes" and params.dataset.name == "scenes":
        raise CaptionlabError(
            "dataset.name is scenes, and so are the results in git, which those of another dataset would replace; set"
            " dataset.name to a name of its own"
        )
    source = params.dataset.source
    if not is_imported(root, source) and root.resolve().is_relative_to(source_folder(root, source).resolve()):
        raise CaptionlabError(
            f"dataset.source {source} holds this project, which DVC does not accept as a dependency; put the dataset "
            "into a folder of its own"
        )
    for name, guest in params.guests.items():
        if not (root / guest.captions).is_file():
            raise CaptionlabError(f"guests.{name}.captions {guest.captions} is not a file; put the captions there")
    if guests := [name for name, guest in params.guest_models.items() if not _has_captioned(root, name, guest.model)]:
        from captionlab.inference.image_to_text import check_image_to_text  # imports torch, as below

        for name in guests:
            try:
                check_image_to_text(params.guest_models[name].model, root)
            except CaptionlabError as error:
                raise CaptionlabError(f"guest_models.{name}: {error}") from error
    if new := [name for name in params.extract_features.encoders if not (root / FEATURES / name).exists()]:
        from captionlab.encoders.load import check_encoder  # imports torch: 1 s, not needed for known encoders

        for name in new:
            check_encoder(name)


def _has_captioned(root: Path, name: str, model: str) -> bool:
    try:
        return guest_folder(root, name).exists() and read_guest(root, name).source == model
    except CaptionlabError:  # a damaged file, which the stage writes again
        return False
