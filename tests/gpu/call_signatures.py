"""Compares source text with a package: do the names that it uses exist, and do its calls fit their signatures?

Types are followed through assignments, returned values, loops and comprehensions, as far as the package's own
signatures say them: by `inspect` where it is written in Python, by the first lines of docstrings where by pybind11.
"""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Instance:
    """Some object of a class."""

    of: type


@dataclass(frozen=True)
class Elements:
    """A list of objects of a class."""

    of: type


class CallChecker(ast.NodeVisitor):
    """Problems of a source text, and all names of the package that it uses.

    Args:
        source: Python.
        known: what the names of parameters and the results of the source's own functions stand for.
        modules: where the classes of annotations are looked up, by their last name.
    """

    def __init__(self, source: str, known: dict[str, Any], *modules: Any) -> None:
        self.known, self.modules, self.names = known, modules, dict[str, Any]()
        self.problems: list[str] = []
        self.used: set[str] = set()
        self.visit(ast.parse(source))

    # Statements: what binds a name.

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.names[alias.asname or alias.name] = self.known.get(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            module = self.known.get(node.module or "")
            if module is not None:
                self.names[alias.asname or alias.name] = self.member(module, alias.name, node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        outer, self.names = self.names, dict(self.names)
        for argument in node.args.args + node.args.kwonlyargs:
            self.names[argument.arg] = self.known.get(argument.arg)
        for statement in node.body:
            self.visit(statement)
        self.names = outer

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for each, value in pairs:
                self.bind(each, self.type_of(value))

    def visit_For(self, node: ast.For) -> None:
        self.bind(node.target, element(self.type_of(node.iter)))
        for statement in node.body + node.orelse:
            self.visit(statement)

    def comprehension(self, node: Any) -> None:
        for generator in node.generators:
            self.bind(generator.target, element(self.type_of(generator.iter)))
        self.generic_visit(node)

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension

    def bind(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, tuple):
            for each, part in zip(target.elts, value, strict=True):
                self.bind(each, part)
        else:
            self.visit(target)  # `options.level = 3`: the attribute has to be there

    # Expressions.

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.type_of(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.type_of(node)

    def type_of(self, node: ast.expr) -> Any:
        """A module, class, function, `Instance` or `Elements`; None where it is nothing of the package."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.type_of(node.value)
            return None if owner is None else self.member(owner, node.attr, node)
        if isinstance(node, ast.Call):
            function = self.type_of(node.func)
            for part in (*node.args, *(keyword.value for keyword in node.keywords)):
                self.visit(part)
            if function is None:
                return self.known.get(f"{node.func.id}()") if isinstance(node.func, ast.Name) else None
            return self.result(function, node)
        self.generic_visit(node)
        return None

    def member(self, owner: Any, name: str, node: ast.AST) -> Any:
        where = owner.of if isinstance(owner, Instance) else owner
        if isinstance(owner, Elements):
            return None
        if not hasattr(where, name):
            self.problems.append(f"line {node.lineno}: {where.__name__} has no {name}")
            return None
        self.used.add(f"{where.__name__}.{name}")
        if name == "__init__":  # of a base class, called with `self`
            return None
        value = inspect.getattr_static(where, name) if isinstance(owner, Instance) else getattr(where, name)
        if isinstance(value, property):
            return self.returned(next(iter(signatures(value.fget)), ([], ""))[1])
        if isinstance(value, type | type(inspect)) or callable(getattr(where, name)):
            return getattr(where, name)
        return Instance(type(value))

    def result(self, function: Any, node: ast.Call) -> Any:
        found = signatures(function.__init__ if isinstance(function, type) else function)
        if found and not any(fits(parameters, node) for parameters, _ in found):
            shown = "; ".join(", ".join(map(str, parameters)) for parameters, _ in found)
            self.problems.append(f"line {node.lineno}: {ast.unparse(node)} does not fit ({shown})")
        if isinstance(function, type):
            return Instance(function)
        return self.returned(found[0][1] if found else "")

    def returned(self, annotation: str) -> Any:
        last = re.findall(r"\w+", annotation)[-1:] or [""]
        names = (last[0], last[0].removeprefix("I"))  # some of TensorRT's signatures say `nvonnxparser::IParserError`
        places = [(module, name) for name in names for module in self.modules if hasattr(module, name)]
        found = getattr(*places[0]) if places else None
        if not isinstance(found, type):
            return None
        return (
            Elements(found) if re.match(r"(typing\.)?(list|Sequence)\[", annotation, re.IGNORECASE) else Instance(found)
        )


def element(value: Any) -> Any:
    return Instance(value.of) if isinstance(value, Elements) else None


def signatures(function: Any) -> list[tuple[list[inspect.Parameter], str]]:
    """Each overload's parameters without `self`, and the annotation of what it returns."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return [parsed(line) for line in re.findall(r"^(?:\d+\. )?\w*\((.*\) -> .*)$", function.__doc__ or "", re.M)
                if not line.startswith("*args")]  # fmt: skip
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    return [(parameters, "" if signature.return_annotation is signature.empty else str(signature.return_annotation))]


def parsed(line: str) -> tuple[list[inspect.Parameter], str]:
    """A signature of pybind11's docstrings: `self: a.B, name: str, flags: int = <Flag.X: 1>) -> a.C`."""
    inside, _, returned = line.rpartition(") -> ")
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    parameters = []
    for part in filter(None, map(str.strip, parts)):
        if part[0] in "/*":  # of `object.__init__(self, /, *args, **kwargs)`: a class that nobody makes
            continue
        name, unnamed = part.partition(":")[0], re.match(r"arg\d+:", part) or "self:" in part
        kind = inspect.Parameter.POSITIONAL_ONLY if unnamed else inspect.Parameter.POSITIONAL_OR_KEYWORD
        default = inspect.Parameter.empty if " = " not in part else part.partition(" = ")[2]
        parameters.append(inspect.Parameter(name, kind, default=default))
    of_object = [each for each in parameters if each.name != "self"]
    if len(of_object) == len(parameters) and parameters and parameters[0].name == "arg0" and "arg1" not in inside:
        of_object = of_object[1:]  # a property: its one argument is the object
    return of_object, returned


def fits(parameters: list[inspect.Parameter], node: ast.Call) -> bool:
    """Whether arguments can be bound; those unpacked from a list or dict are not known, and pass."""
    if any(isinstance(each, ast.Starred) for each in node.args) or any(each.arg is None for each in node.keywords):
        return True
    try:
        inspect.Signature(parameters).bind(*node.args, **{each.arg: each.value for each in node.keywords})
    except TypeError:
        return False
    return True
