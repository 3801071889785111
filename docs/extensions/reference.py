"""The API reference: a page for each package, made from the docstrings of its modules into `docs/api/` (not in git)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sphinx.application import Sphinx

PACKAGES = ("dfine_lib", "data_tools", "dfine_tools")
CODE_OR_MARK = re.compile(r"(`+)(?P<code>.+?)\1(?=(?P<letter>\w?))|[*|]|(?<=\w)_(?!\w)")


def modules_by_package(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Each package with its public modules, by full name."""
    for package in (folder for top in PACKAGES for folder in sorted((root / top).rglob("*")) + [root / top]):
        if (package / "__init__.py").is_file():
            name = ".".join(package.relative_to(root).parts)
            yield name, [f"{name}.{file.stem}" for file in sorted(package.glob("[!_]*.py"))]


def write_pages(app: Sphinx) -> None:
    """Write what has changed; remove the pages of packages that are gone."""
    folder = Path(app.confdir) / "api"
    folder.mkdir(exist_ok=True)
    packages = sorted(modules_by_package(Path(app.srcdir)), key=lambda one: (PACKAGES.index(one[0].split(".")[0]), one))
    pages = {f"{name}.rst": _page(name, modules) for name, modules in packages}
    for file in folder.iterdir():
        if file.name not in pages:
            file.unlink()
    for name, text in pages.items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _page(package: str, modules: list[str]) -> str:
    head = f"{package}\n{'=' * len(package)}\n\n.. automodule:: {package}\n   :no-members:\n"
    return head + "".join(f"\n{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n" for name in modules)


def from_elsewhere(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leave out what a module imports before autodoc looks at it closely, which takes half of its time."""
    home, here = getattr(obj, "__module__", None), app.env.temp_data.get("autodoc:module")
    return True if what == "module" and isinstance(home, str) and home != here else None


def as_restructured_text(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Our docstrings are plain text with `code`; reStructuredText reads more into stars, bars and underscores."""
    lines[:] = [CODE_OR_MARK.sub(_escaped, line) for line in lines]


def _escaped(match: re.Match) -> str:
    if match["code"] is None:
        return "\\" + match[0]
    return f"``{match['code']}``" + ("\\ " if match["letter"] else "")  # `box`es: a literal may not touch a letter


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-skip-member", from_elsewhere)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
