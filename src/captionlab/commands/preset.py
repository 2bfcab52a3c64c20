"""Write a preset into params.yaml. Knows the files, not what their parameters mean."""

import re
from io import StringIO
from itertools import chain, count
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from captionlab.commands.in_git import is_in_git
from captionlab.config import SECTIONS, load_params
from captionlab.core.files import atomic_file, read_yaml, through_link
from captionlab.errors import CaptionlabError

PRESETS = Path("presets")


def presets(root: Path) -> list[str]:
    """A line for each preset: its name, and how long it takes."""
    files = {path.stem: _times(path) for path in sorted((root / PRESETS).glob("*.yaml"))}
    if not files:
        raise CaptionlabError(f"there are no presets in {PRESETS}/; run captionlab from the project's folder")
    width = max(map(len, files))
    return [f"{name:{width}}  {' '.join(times)}".rstrip() for name, times in files.items()]


def apply_preset(root: Path, name: str) -> list[str]:
    """Write the values of ``presets/<name>.yaml`` into params.yaml, whose comments stay; returns the closing lines.

    The systems' configurations and retrieval are replaced as a whole where the preset has them; fine-tunings, ensembles
    and guests always; any other section key by key. The layout is the one that DVC's ``exp run -S`` writes, so that it
    later changes one line. A params.yaml that git does not have is kept beside it.
    Raises CaptionlabError for an unknown preset and for one whose result is not valid; params.yaml is then unchanged.
    """
    known = sorted(path.stem for path in (root / PRESETS).glob("*.yaml"))
    if name not in known:
        raise CaptionlabError(f"no preset {name!r} in {PRESETS}/; there are {', '.join(known) or 'none'}")
    path = through_link(root / "params.yaml")
    load_params(path)
    yaml = YAML()
    yaml.default_flow_style = False  # as DVC writes it
    params = yaml.load(path)
    source = root / PRESETS / f"{name}.yaml"
    read_yaml(source, "choose another")
    try:
        preset = yaml.load(source)
    except (YAMLError, ValueError, AttributeError) as error:  # AttributeError: an anchor that merges itself
        raise CaptionlabError(f"{PRESETS / name}.yaml is not valid YAML: {' '.join(str(error).split())}") from error
    for section in ("finetune", "ensemble", "guests", "guest_models"):  # of configurations or photos that are replaced
        params[section] = {}
    for section, values in _sections(preset, name):
        _use_block_style(values)
        if section in (*SECTIONS, "guest_models"):
            params[section] = values
        else:
            params.setdefault(section, {}).update(values)
    text = StringIO()
    yaml.dump(params, text)
    with atomic_file(path) as temporary:
        temporary.write_text(_spaced(text.getvalue()), encoding="utf-8", newline="\n")
        try:
            changed = load_params(temporary)
        except CaptionlabError as error:
            reason = str(error).removeprefix(f"{temporary}: ")
            raise CaptionlabError(f"{PRESETS / name}.yaml: {reason}; params.yaml is unchanged") from None
        back = "`git restore params.yaml` goes back"
        if not is_in_git(path):
            back = f"git does not have the former params.yaml: it is kept as {_keep(path).name}"
    encoders = ", ".join(changed.extract_features.encoders)
    return [
        f"params.yaml holds preset {name}: {len(changed.rows())} configurations over {encoders}",
        *(f"time: {time}" for time in _times(source)),
        f"run it with `dvc exp run`; {back}",
    ]


def _keep(path: Path) -> Path:
    """Copy the file to ``<name>.former``, or with a number where that is another file, and return the copy."""
    content = path.read_bytes()
    names = (path.with_name(f"{path.name}.former{number}") for number in chain([""], count(2)))
    former = next(name for name in names if not name.exists() or name.read_bytes() == content)
    with atomic_file(former) as temporary:
        temporary.write_bytes(content)
    return former


def _times(preset: Path) -> list[str]:
    return re.findall(r"^# Time: (.+)", preset.read_text(encoding="utf-8"), re.MULTILINE)


def _sections(preset: Any, name: str) -> list[tuple[str, Any]]:
    if not isinstance(preset, dict) or not all(isinstance(values, dict) for values in preset.values()):
        raise CaptionlabError(f"{PRESETS / name}.yaml must be a mapping of sections, as params.yaml is")
    return list(preset.items())


def _use_block_style(values: Any) -> None:
    """One entry a line instead of {} and [], at every depth; what is empty stays as it is."""
    if isinstance(values, (CommentedMap, CommentedSeq)) and values:
        values.fa.set_block_style()
        for inner in values.values() if isinstance(values, dict) else values:
            _use_block_style(inner)


def _spaced(text: str) -> str:
    """One blank line before each section and none in it; one space before a comment behind a value.

    ruamel keeps blank lines and columns beside the values of the section before, which the preset replaces.
    """
    text = re.sub(r"\n{2,}", "\n", text)
    text = re.sub(r"""^( *\w+:(?: [^\s'"]+)?) +#""", r"\1 #", text, flags=re.MULTILINE)
    return re.sub(r"^(?=\w)", "\n", text, flags=re.MULTILINE)
