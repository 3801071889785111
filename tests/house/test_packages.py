"""The import contract: which package may import which, in what order the core stands, and how long a module may be."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {name: ROOT / name for name in ("dfine_lib", "data_tools", "dfine_tools")}
FOLDERS["workbook"] = ROOT / "notebooks" / "workbook"
BELOW = {  # what each package may import of ours, besides itself
    "dfine_lib": set(),
    "data_tools": {"dfine_lib"},
    "dfine_tools": {"dfine_lib", "data_tools"},
    "workbook": {"dfine_lib", "data_tools", "dfine_tools"},
}
GROUND = ("errors", "boxes", "config", "recipes", "device", "distributed", "files")
ORDER = ("data", "model", "criterion", "evaluate", "train")  # each above the ground and the ones before it
CORE_DEPENDENCIES = {
    *("torch", "torchvision", "numpy", "scipy", "PIL", "safetensors", "tqdm", "tensorboard"),
    *("filelock", "pycocotools", "faster_coco_eval"),
    "pillow_heif",  # tried by `register_heif` alone, which does without
}
MAX_LINES = 350  # of a module
LAZY = {  # modules of the core that reach a package above them, by importlib and only when it is asked for
    "dfine_lib": {"dfine_tools.deploy.predict"},  # `from dfine_lib import Predictor`
    "dfine_lib.cli": {"dfine_tools.cli"},  # `python -m dfine_lib.cli`, for users of the old path
    "dfine_lib.model.dfine": {"dfine_tools.weights.sources"},  # `DFINE.from_pretrained`, from any source
}


def modules() -> dict[str, Path]:
    """Every module of the four packages, by its full name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


class Imports(ast.NodeVisitor):
    """Full names of what a module imports, also inside functions; what only a type checker sees is left out."""

    def __init__(self, module: str) -> None:
        self.package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
        self.found: set[str] = set()
        self.visit(ast.parse(MODULES[module].read_text(encoding="utf-8")))

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" not in ast.unparse(node.test):
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            base = ".".join([*self.package.split(".")[: len(self.package.split(".")) + 1 - node.level], base]).rstrip(
                "."
            )
        for alias in node.names:
            full = f"{base}.{alias.name}"
            self.found.add(full if full in MODULES else base)


IMPORTS = {module: Imports(module).found for module in MODULES}
OURS = {module: found & set(MODULES) - {module} for module, found in IMPORTS.items()}


def floor(module: str) -> int:
    """0 for the ground, then data, model, ...; -1 outside the core's order (the package itself)."""
    part = module.split(".")[1] if "." in module else ""
    return 0 if part in GROUND else ORDER.index(part) + 1 if part in ORDER else -1


@pytest.mark.parametrize("package", FOLDERS)
def test_a_package_imports_only_the_packages_below_it(package):
    wrong = [
        f"{module} imports {name}"
        for module, found in IMPORTS.items() if module.split(".")[0] == package
        for name in sorted(found)
        if (top := name.split(".")[0]) in FOLDERS and top != package and top not in BELOW[package]
    ]  # fmt: skip
    assert wrong == []


def test_the_core_reaches_a_package_above_only_where_it_is_named_here():
    found = {}
    for module, path in MODULES.items():
        if module.split(".")[0] == "dfine_lib":
            text = path.read_text(encoding="utf-8")
            if names := set(re.findall(r"import_module\(\s*\"((?:data_tools|dfine_tools|workbook)[\w.]*)", text)):
                found[module] = names
    assert found == {module: names for module, names in LAZY.items() if module in MODULES}


def test_the_core_is_built_from_the_ground_up():
    """ground < data < model < criterion < evaluate < train."""
    wrong = [
        f"{module} imports {name}"
        for module, found in OURS.items() if module.split(".")[0] == "dfine_lib" and floor(module) >= 0
        for name in sorted(found) if name.split(".")[0] == "dfine_lib" and floor(name) > floor(module)
    ]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize("package", FOLDERS)
def test_no_modules_of_a_package_import_each_other_in_a_circle(package):
    left = {m: {n for n in found if n.split(".")[0] == package} for m, found in OURS.items()}
    left = {m: found for m, found in left.items() if m.split(".")[0] == package}
    while free := {m for m, found in left.items() if not found & set(left)}:
        left = {m: found for m, found in left.items() if m not in free}
    while unused := set(left) - {name for found in left.values() for name in found}:
        left = {m: found for m, found in left.items() if m not in unused}
    assert {m: sorted(found & set(left)) for m, found in left.items()} == {}


def test_the_core_imports_no_optional_package():
    allowed = CORE_DEPENDENCIES | {"dfine_lib"} | set(sys.stdlib_module_names)
    wrong = [
        f"{module} imports {name}"
        for module, found in IMPORTS.items() if module.split(".")[0] == "dfine_lib"
        for name in sorted(found) if name.split(".")[0] not in allowed
    ]  # fmt: skip
    assert wrong == []


def test_every_module_of_the_core_has_its_place():
    core = [module for module in MODULES if module.split(".")[0] == "dfine_lib"]
    assert [module for module in core if floor(module) < 0 and module not in LAZY] == []


def test_no_module_is_longer_than_a_reader_can_hold():
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > MAX_LINES} == {}
