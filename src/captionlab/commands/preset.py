"""A preset laid over params.yaml: one command sets everything that a report had. Knows the files, not what they say."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from captionlab.config import SECTIONS, load_params
from captionlab.core.files import atomic_file, read_yaml
from captionlab.errors import CaptionlabError

PRESETS = Path("presets")


def apply_preset(root: Path, name: str) -> list[str]:
    """Lay ``presets/<name>.yaml`` over params.yaml, comments too; returns the closing lines.

    The systems' configurations are replaced as a whole, any other section key by key. Raises CaptionlabError for a
    name that no preset has, and when the result could not be read; params.yaml is then left as it is.
    """
    known = sorted(path.stem for path in (root / PRESETS).glob("*.yaml"))
    if name not in known:
        raise CaptionlabError(f"no preset {name!r} in {PRESETS}/; there are {', '.join(known) or 'none'}")
    path = root / "params.yaml"
    load_params(path)
    yaml = YAML()
    yaml.width = 1000  # lines stay as they are
    params = yaml.load(path)
    read_yaml(root / PRESETS / f"{name}.yaml", "choose another")
    try:
        preset = yaml.load(root / PRESETS / f"{name}.yaml")
    except (YAMLError, ValueError, AttributeError) as error:  # AttributeError: an anchor that merges itself
        raise CaptionlabError(f"{PRESETS / name}.yaml is not valid YAML: {' '.join(str(error).split())}") from error
    params["finetune"], params["ensemble"] = {}, {}  # they name configurations, which the preset replaces
    for section, values in _sections(preset, name):
        if section in SECTIONS:
            params[section] = values
        else:
            params.setdefault(section, {}).update(values)
    with atomic_file(path) as temporary:
        yaml.dump(params, temporary)
        try:
            changed = load_params(temporary)
        except CaptionlabError as error:
            reason = str(error).removeprefix(f"{temporary}: ")
            raise CaptionlabError(f"{PRESETS / name}.yaml: {reason}; params.yaml is as it was") from None
    encoders = ", ".join(changed.extract_features.encoders)
    return [
        f"params.yaml holds preset {name}: {len(changed.systems())} configurations over {encoders}",
        "run it with `dvc exp run`; `git restore params.yaml` goes back",
    ]


def _sections(preset: Any, name: str) -> list[tuple[str, Any]]:
    if not isinstance(preset, dict) or not all(isinstance(values, dict) for values in preset.values()):
        raise CaptionlabError(f"{PRESETS / name}.yaml must be a mapping of sections, as params.yaml is")
    return list(preset.items())
