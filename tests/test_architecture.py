"""The rules of the house: which way imports point, and that dvc.yaml names the code that decides a stage's result."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from captionlab.config import SYSTEMS
from captionlab.registry import REQUIREMENTS

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src/captionlab"
MODULES = {
    ".".join(["captionlab", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}

# What each module or package may import of ours. A package's rule holds for all in it, and it may import itself.
# Reading top-down: the plumbing knows nothing; models know no data; decoding knows only the contract.
ALLOWED = {
    "errors": "",
    "records": "",
    "strict": "errors",
    "config": "errors files strict",
    "files": "errors",
    "devices": "errors",
    "tracking": "errors",
    "archives": "errors",
    "downloading": "errors",
    "text": "",
    "cider": "",
    "meteor": "",
    "uncertainty": "",
    "metrics": "cider errors meteor records text uncertainty",
    "diagnostics": "cider metrics text uncertainty",
    "truth": "",
    "retrieval": "cider",
    "reranking": "captioner config retrieval",
    "scoring": "errors metrics records",
    "vocab": "errors files text",
    "datasets": "archives config downloading errors files photos records",
    "photos": "errors",
    "efficientnet_lite": "",
    "encoders": "efficientnet_lite errors files",
    "ranks": "errors",
    "features": "encoders errors files photos ranks strict",
    "models": "config errors",
    "decoding": "models.base",
    "batches": "errors features models.base records vocab",
    "checkpoint": "config errors files models vocab",
    "losses": "",
    "thirds": "",
    "training": "batches config devices errors files losses models.base ranks",
    "judging": "batches cider decoding models.base vocab",
    "selfcritical": "batches cider decoding judging models.base training vocab",
    "distilling": "batches judging models.base training",
    "systems": "batches checkpoint config devices errors features files models ranks records tracking training vocab",
    "captioner": "checkpoint decoding devices encoders errors features models photos vocab",
    "candidates": "batches captioner config devices errors models.base records reranking systems training vocab",
    "attention_map": "",
    "journal": "errors files ranks",
    "describing": "attention_map captioner errors files journal photos ranks registry",
    "release": "batches captioner checkpoint errors features files models.base records systems",
    "report": "config errors files records",
    "stages": "batches candidates captioner checkpoint cider config datasets devices diagnostics distilling encoders "
    "errors features files judging metrics ranks records registry report reranking retrieval selfcritical systems text "
    "thirds tracking training truth vocab",
    "ranges": "config errors",
    "tuning": "config devices errors features files ranges records systems tracking training",
    "ui": "errors tracking",
    "doctor": "config devices encoders errors files records tracking",
    "presets": "config errors files",
    "registry": "errors files serving tracking",
    "serving": "captioner errors",
    "demo": "captioner datasets.drawing errors models.base records",
    "cli": "*",
}
ONLY_IN = {  # heavy or replaceable libraries, and the only places that may know them
    "mlflow": {"tracking", "registry", "serving"},
    "dvc": set[str](),
    "timm": {"encoders"},
    "torchvision": set[str](),  # encoders imports it by name, past a mismatch with torch
    "onnxruntime": {"features"},
    "matplotlib": {"report"},
    "pyarrow": {"datasets"},
    "nltk": {"metrics"},
    "typer": {"cli"},
    "starlette": {"demo"},
    "uvicorn": {"demo"},
    "optuna": {"ranges", "tuning"},
}
NO_TORCH = (
    "report",
    "metrics",
    "text",
    "vocab",
    "config",
    "strict",
    "records",
    "files",
    "tracking",
    "datasets",
    "cider",
    "scoring",
    "photos",
    "attention_map",
    "presets",
)

# These decide no result: they carry values, name places, check parameters or report progress. What of them could
# change a result, the parameters' values, DVC watches itself. Listed, any edit would make every stage stale.
PLUMBING = {
    f"captionlab.{name}"
    for name in ("errors", "files", "records", "config", "strict", "devices", "ranks", "tracking", "cli")
}
# build.py imports each system only when it builds it, so a training stage depends on its own system's kinds.
BUILD = "captionlab.models.build"
KINDS = {"modified": {"modified", "merge"}, "attention": {"attention", "states"}}
# Training opens a store that photos and encoders filled, and numbers words that the cleaning made. Their work reaches
# it as data, which DVC watches; the code itself is not run, and must not make hours of training stale.
ARRIVES_AS_DATA = {
    ("captionlab.features", "captionlab.encoders"),
    ("captionlab.features", "captionlab.photos"),
    ("captionlab.vocab", "captionlab.text"),
}


def imported(path: Path) -> Iterator[str]:
    """The modules a file imports anywhere, in functions too: ours to the module, others to the package."""
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


def short(module: str) -> str:
    return module.removeprefix("captionlab.")


def permitted(rule: str, name: str) -> bool:
    return any(rule == "*" or name == entry or name.startswith(f"{entry}.") for entry in rule.split())


def importable_rule(module: str) -> tuple[str, str]:
    """The room a module belongs to, and what its room may import."""
    room = short(module).split(".")[0]
    return room, ALLOWED[room]


@pytest.mark.parametrize("module", [module for module in MODULES if module != "captionlab"])
def test_imports_point_one_way(module: str) -> None:
    room, rule = importable_rule(module)
    for name in map(short, ours(module)):
        if name.split(".")[0] == room and room != "stages":  # stages never import one another
            continue
        assert permitted(rule, name), f"{module} must not import {name}"


def test_the_rules_name_only_what_is_there_and_used() -> None:
    rooms = {short(module).split(".")[0] for module in MODULES if module != "captionlab"}
    assert set(ALLOWED) == rooms
    for room, rule in ALLOWED.items():
        names = {short(name) for module in MODULES if short(module).split(".")[0] == room for name in ours(module)}
        for entry in rule.replace("*", "").split():
            assert any(permitted(entry, name) for name in names), f"{room} no longer imports {entry}; strike it"


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    for module, path in MODULES.items():
        if any(name.split(".")[0] == library for name in imported(path)):
            assert short(module).split(".")[0] in ONLY_IN[library], f"{module} must not import {library}"


@pytest.mark.parametrize("room", NO_TORCH)
def test_rooms_without_torch(room: str) -> None:
    """Not even through another module of ours."""
    for module in MODULES:
        if short(module).split(".")[0] == room:
            for reached in closure(module):
                libraries = {name.split(".")[0] for name in imported(MODULES[reached])}
                assert "torch" not in libraries, f"{module} reaches torch through {reached}"


def closure(start: str, trains: str | None = None) -> set[str]:
    """All modules of ours that ``start`` reaches, itself too; where it ``trains`` a system, what decides that alone."""
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
            if module == BUILD and trains in SYSTEMS:
                names -= {
                    f"captionlab.models.{kind}"
                    for other in SYSTEMS
                    if other != trains
                    for kind in KINDS.get(other, {other})
                }
        ahead += names
    return reached


def is_empty(module: str) -> bool:
    """A package's own file that holds nothing but its docstring."""
    return len(ast.parse(MODULES[module].read_text(encoding="utf-8")).body) < 2


def deps(stage: str) -> list[str]:
    plain = YAML(typ="safe").load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"][stage]
    listed = plain.get("do", plain)["deps"]
    return [name for name in listed if name.startswith("src/")]


STAGES = sorted(path.stem for path in (SOURCE / "stages").glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_knows_the_code_of_each_stage(stage: str) -> None:
    """Neither missing, or a changed module leaves old results standing; nor too many, or results go for nothing."""
    if stage == "track":  # runs always, and has no result of its own
        assert deps(stage) == []
        return
    trains = stage == "finetune" or stage.startswith("train_")  # finetune trains any system
    system = stage.removeprefix("train_") if trains else None
    reached = closure(f"captionlab.stages.{stage}", system) - PLUMBING
    needed = {MODULES[module] for module in reached if not is_empty(module)}
    listed: set[Path] = set()
    for name in deps(stage):
        path = REPOSITORY / name
        assert path.exists(), f"{stage}: {name} is not there"
        files = set(path.rglob("*.py")) if path.is_dir() else {path}
        assert files & needed, f"{stage}: {name} is not imported"
        listed |= files
    missing = sorted(str(path.relative_to(REPOSITORY)) for path in needed - listed)
    assert not missing, f"{stage}: add to deps {missing}"
    folders = {path.parent for path in listed if path.name == "__init__.py"}
    superfluous = {path for path in listed - needed if path.name != "__init__.py" and path.parent not in folders}
    assert not superfluous, f"{stage}: strike from deps {superfluous}"
    assert deps(stage) == sorted(deps(stage))


@pytest.mark.parametrize("module", MODULES)
def test_every_file_is_short_and_says_what_it_is(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), f"{module} has no docstring"
    assert text.count("\n") < 400


def test_the_tree_of_the_readme_is_there() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = re.search(r"^## The tree\n.*?^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    if block is None and "## The tree" not in readme:
        pytest.skip("the README shows no tree yet")
    assert block, "the heading 'The tree' wants a fenced block"
    folders: list[tuple[int, str]] = []
    for line in block[1].splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        above = folders[-1][1] if folders else ""
        for name in re.split(r"\s{2,}", line.strip())[0].split():  # names, two spaces or more, a phrase
            assert (REPOSITORY / above / name).exists(), f"README.md: {above}{name} is not there"
            if name.endswith("/"):
                folders.append((indent, f"{above}{name}"))


def test_a_registered_model_names_every_library_it_runs_on() -> None:
    reached = {name.split(".")[0] for module in closure("captionlab.serving") for name in imported(MODULES[module])}
    distributions = packages_distributions()
    libraries = reached - sys.stdlib_module_names - {"captionlab"}
    for library in libraries:
        assert {name.lower() for name in distributions[library]} & set(REQUIREMENTS), f"{library} is missing"
