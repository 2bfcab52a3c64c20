"""The rules of the source tree: directions of imports, and the code that dvc.yaml lists for each stage."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from ruamel.yaml import YAML

from captionlab.config import SYSTEMS, Params
from captionlab.serving.registry import REQUIREMENTS

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src/captionlab"
MODULES = {
    ".".join(["captionlab", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
MOST_FLAT = 12  # directly in src/captionlab
MOST_PARAMETERS = 6  # of a function, unless its docstring explains more

# What each folder or flat module may import of ours; a folder may import itself. In the order of the imports: each line
# names only what stands above it.
ALLOWED = {
    "errors": "",
    "core": "errors",
    "models": "core errors",
    "config": "core errors models.params",
    "data": "core errors",
    "datasets": "config core data.caption_json data.photos data.text errors",
    "encoders": "core data errors",
    "tracking": "errors",
    "metrics": "core data.text errors",
    "training": "config core data encoders errors metrics.cider models tracking",
    "inference": "core data encoders errors models training.checkpoint training.header",
    "exporting": "core encoders errors inference models",
    "finetuning": "core data.text data.vocab inference.decoding metrics.cider models training",
    "evaluation": "config core data errors inference metrics models training",
    "report": "config core data.photos",
    "serving": "core errors tracking training.checkpoint",
    "tuning": "config core data errors training tracking",
    "demo": "core datasets.drawing errors evaluation inference models",
    "stages": "config core data datasets encoders errors evaluation finetuning inference metrics report serving "
    "tracking training",
    "commands": "config core data datasets encoders errors evaluation exporting inference metrics models serving "
    "stages.check_params tracking training",
    "cli": "*",
}
ONLY_IN = {  # heavy or replaceable libraries, and the only places that may know them
    "mlflow": {"tracking", "serving"},
    "dvc": set[str](),
    "timm": {"encoders"},
    "torchvision": set[str](),  # encoders imports it dynamically, because of possible mismatches with torch
    "onnxruntime": {"encoders", "exporting"},
    "matplotlib": {"report"},
    "pyarrow": {"datasets"},
    "nltk": {"metrics"},
    "typer": {"cli"},
    "starlette": {"demo"},
    "uvicorn": {"demo"},
    "optuna": {"tuning"},
    "transformers": {"inference"},
    "pydantic": {"config", "core", "data", "models", "training"},
}
NO_TORCH = (
    "commands.attention_map", "commands.preset", "commands.score", "config", "core.files",
    "core.records", "core.validation", "data",
    "datasets", "metrics", "models.params", "report", "tracking", "training.header", "training.logged",
)  # fmt: skip

# These carry values, name paths, choose devices, check parameters or report progress; nearly all of their edits change
# no result, and listed, each would make every stage stale. The parameters' values DVC watches itself. Not watched are
# the defaults of parameters that params.yaml does not have, and how a device computes (core.devices).
PLUMBING = (
    "captionlab.errors",
    "captionlab.config",
    "captionlab.core",
    "captionlab.models.params",
    "captionlab.tracking",
)
DECIDES = ("captionlab.core.attention_overlay",)  # what the gallery shows
# Training opens a store that photos and encoders filled, and numbers words that the cleaning made. Their work reaches
# it as data, which DVC watches; the code itself is not run, and must not make hours of training stale.
ARRIVES_AS_DATA = {("captionlab.data.vocab", "captionlab.data.text")}
BUILD = "captionlab.models.build"  # imports the network that a configuration names


def imported(path: Path) -> Iterator[str]:
    """All imports of a file, also those in functions: modules of ours, and packages of others."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield inner if inner in MODULES else module


@cache
def ours(module: str) -> frozenset[str]:
    return frozenset(name for name in imported(MODULES[module]) if name in MODULES and name != "captionlab")


def networks(system: str) -> set[str]:
    """The modules of the networks that a system's parameters build."""
    kind = get_args(get_type_hints(Params)[system])[1]  # of its configurations, or several kinds
    return {f"captionlab.models.{params.network.rpartition('.')[0]}" for params in get_args(kind) or (kind,)}


def short(module: str) -> str:
    return module.removeprefix("captionlab.")


def folder_of(module: str) -> str:
    """The folder or top-level module that a module belongs to."""
    return short(module).split(".")[0]


def permitted(rule: str, name: str) -> bool:
    return any(rule == "*" or name == entry or name.startswith(f"{entry}.") for entry in rule.split())


@pytest.mark.parametrize("module", [module for module in MODULES if module != "captionlab"])
def test_imports_point_one_way(module: str) -> None:
    folder = folder_of(module)
    for name in ours(module):
        if folder_of(name) == folder and folder != "stages":  # stages do not import one another
            continue
        assert permitted(ALLOWED[folder], short(name)), f"{module} must not import {name}"


def test_the_rules_have_no_unused_entries() -> None:
    folders = {folder_of(module) for module in MODULES if module != "captionlab"}
    assert set(ALLOWED) == folders
    for folder, rule in ALLOWED.items():
        names = {short(name) for module in MODULES if folder_of(module) == folder for name in ours(module)}
        for entry in rule.replace("*", "").split():
            assert any(permitted(entry, name) for name in names), f"{folder} no longer imports {entry}; remove it"


def test_no_folder_imports_in_a_circle() -> None:
    """Except ``models.params``, which holds values that config reads."""
    arrows: dict[str, set[str]] = {folder: set() for folder in ALLOWED}
    for module in MODULES:
        if module != "captionlab" and module != "captionlab.models.params":
            arrows[folder_of(module)] |= {
                folder_of(name) for name in ours(module) if name != "captionlab.models.params"
            }
    order = list(TopologicalSorter({folder: below - {folder} for folder, below in arrows.items()}).static_order())
    assert set(order) == set(ALLOWED)
    above: set[str] = set()
    for folder in ALLOWED:  # as the rules are written
        assert arrows[folder] - {folder} <= above, f"{folder} stands above {arrows[folder] - above}"
        above.add(folder)


def test_few_modules_lie_directly_in_the_package() -> None:
    assert len(list(SOURCE.glob("*.py"))) <= MOST_FLAT


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_are_imported_only_in_their_folders(library: str) -> None:
    for module, path in MODULES.items():
        if any(name.split(".")[0] == library for name in imported(path)):
            assert folder_of(module) in ONLY_IN[library], f"{module} must not import {library}"


@pytest.mark.parametrize("place", NO_TORCH)
def test_some_folders_do_not_import_torch(place: str) -> None:
    """Not through another module of ours either."""
    inside = [module for module in MODULES if permitted(place, short(module))]
    assert inside
    for module in inside:
        for reached in closure(module):
            libraries = {name.split(".")[0] for name in imported(MODULES[reached])}
            assert "torch" not in libraries, f"{module} reaches torch through {reached}"


def closure(start: str, trains: str | None = None) -> set[str]:
    """All modules of ours that ``start`` reaches; with ``trains``, only those that affect that system."""
    reached: set[str] = set()
    ahead = [start]
    while ahead:
        module = ahead.pop()
        if module in reached:
            continue
        reached.add(module)
        parent = module.rsplit(".", 1)[0]  # importing a module runs its package
        names = set(ours(module)) | ({parent} if parent in MODULES and parent != "captionlab" else set())
        if trains:
            names -= {name for name in names if (module, name) in ARRIVES_AS_DATA}
        if module == BUILD:
            names |= set().union(*(networks(system) for system in ([trains] if trains in SYSTEMS else SYSTEMS)))
        ahead += names
    return reached


def is_empty(module: str) -> bool:
    """An ``__init__.py`` with nothing but its docstring."""
    return len(ast.parse(MODULES[module].read_text(encoding="utf-8")).body) < 2


def deps(stage: str) -> list[str]:
    plain = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    listed = plain.get("do", plain).get("deps", [])
    return [name for name in listed if name.startswith("src/")]


STAGES = sorted(path.stem for path in (SOURCE / "stages").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_yaml_lists_the_code_of_each_stage(stage: str) -> None:
    """A missing module would leave outdated results valid; a superfluous one would rerun stages for nothing."""
    if stage in ("check_params", "track"):  # they always run
        assert deps(stage) == []
        return
    trains = stage == "finetune" or stage.startswith("train_")  # finetune trains any system
    system = stage.removeprefix("train_") if trains else None
    every = closure(f"captionlab.stages.{stage}", system)
    reached = {name for name in every if not name.startswith(PLUMBING) or name in DECIDES}
    needed = {MODULES[module] for module in reached if not is_empty(module)}
    listed: set[Path] = set()
    for name in deps(stage):
        path = REPOSITORY / name
        assert path.exists(), f"{stage}: {name} is not there"
        if path.suffix == ".safetensors":
            assert stage == "build_vocab"  # which may add the words of the released captioner
            continue
        files = set(path.rglob("*.py")) if path.is_dir() else {path}
        assert files & needed, f"{stage}: {name} is not imported"
        listed |= files
    missing = sorted(str(path.relative_to(REPOSITORY)) for path in needed - listed)
    assert not missing, f"{stage}: add to deps {missing}"
    assert deps(stage) == sorted(deps(stage))
    assert len(deps(stage)) <= 10


@pytest.mark.parametrize("module", MODULES)
def test_every_file_is_short_and_has_a_docstring(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{module} has no docstring"
    assert text.count("\n") < 400


def functions(module: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a module, including nested ones."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_functions_with_many_parameters_explain_why() -> None:
    """With more than six, without ``self``, the docstring must mention "parameters"."""
    for module in MODULES:
        for function in functions(module):
            every = function.args
            named = [one.arg for one in (*every.posonlyargs, *every.args, *every.kwonlyargs)]
            if len([name for name in named if name not in ("self", "cls")]) > MOST_PARAMETERS:
                why = ast.get_docstring(function) or ""
                assert "parameters" in why, f"{module}: {function.name} has many parameters; say why in its docstring"


def test_the_documented_tree_exists() -> None:
    """Every name that CONTRIBUTING.md's tree shows exists, and every folder of the package is shown."""
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"^## The tree\n.*?^```\w*\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert block, "CONTRIBUTING.md wants a heading 'The tree' and a fenced block"
    lines = [line for line in block[1].splitlines() if line.strip()]
    assert len(lines) <= 40
    shown: set[str] = set()
    folders: list[tuple[int, str]] = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        above = folders[-1][1] if folders else ""
        for name in re.split(r"\s{2,}", line.strip())[0].split():  # names, two spaces or more, a phrase
            assert (REPOSITORY / above / name).exists(), f"CONTRIBUTING.md: {above}{name} is not there"
            shown.add(f"{above}{name}")
            if name.endswith("/"):
                folders.append((indent, f"{above}{name}"))
    packages = {f"src/captionlab/{path.parent.name}/" for path in SOURCE.glob("*/__init__.py")}
    assert packages <= shown, f"CONTRIBUTING.md does not show {packages - shown}"


def test_a_registered_model_names_every_library_it_runs_on() -> None:
    modules = closure("captionlab.serving.model") | closure("captionlab.inference.captioner")  # imported when used
    reached = {name.split(".")[0] for module in modules for name in imported(MODULES[module])}
    distributions = packages_distributions()
    libraries = reached - sys.stdlib_module_names - {"captionlab"}
    for library in libraries:
        assert {name.lower() for name in distributions[library]} & set(REQUIREMENTS), f"{library} is missing"
