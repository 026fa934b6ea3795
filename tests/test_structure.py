"""The shape of the package: imports go downward only, and every public name says what it is."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import PACKAGE, run_python

import fastlrp
from fastlrp import _kernels

# Lowest first. A module imports modules of lower rows only; a package's files may import each other.
ROWS = [
    {"errors", "_version", "shapes", "rules", "viz"},
    {"reference", "datasets", "progress"},
    {"packing", "steps"},
    {"arena"},
    {"_kernels"},
    {"ops", "fusing"},
    {"layers", "program"},
    {"graph"},
    {"propagate", "composites", "canonize"},
    {"methods"},
    {"explain"},
    {"network", "train"},
    {"io"},
    {"demo", "bench"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, row in enumerate(ROWS) for name in row}
# A network's methods for training and files import what stands above them when called.
DEFERRED = {("network", "train"), ("network", "io")}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
OPTIONAL = {"torch", "onnx", "sklearn", "tensorflow", "dask", "pandas"}


def module_of(path: Path) -> str:
    """The row entry that a file belongs to: its top-level module, or its package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether at module level) for every import: ".name" for the package's own, else the top-level name."""
    tree = ast.parse(path.read_text())
    outer = set(map(id, tree.body))
    depth = len(path.relative_to(PACKAGE).parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                own = alias.name.startswith("fastlrp")
                yield ("." + (alias.name + ".__init__").split(".")[1] if own else alias.name.split(".")[0],
                       id(node) in outer)
        elif isinstance(node, ast.ImportFrom):
            for name in targets(node, depth):
                yield name, id(node) in outer


def targets(node: ast.ImportFrom, depth: int) -> list[str]:
    """What one `from ... import ...` refers to."""
    if node.level == 0:
        return [node.module.split(".")[0]]
    if node.level < depth:
        return []  # within a package
    if node.module:
        return ["." + node.module.split(".")[0]]
    return ["." + (alias.name if alias.name in RANK else "__init__") for alias in node.names]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    """Lower rows do not know higher ones."""
    own = module_of(path)
    assert own in RANK, f"{own} has no row in this test's table: give it one"
    for name, at_module_level in imports(path):
        if not name.startswith("."):
            continue
        other = name[1:]
        assert other in RANK, f"{path.name} imports {other}, which has no row"
        if other == own or (not at_module_level and (own, other) in DEFERRED):
            continue
        assert RANK[other] < RANK[own], f"{own} imports {other}, which is not below it"


def test_rules_import_nothing_of_the_package() -> None:
    """They are data."""
    assert not [name for name, _ in imports(PACKAGE / "rules.py") if name.startswith(".")]


def test_pictures_need_numpy_and_matplotlib_alone() -> None:
    """viz stands by itself."""
    found = {name for name, _ in imports(PACKAGE / "viz.py")}
    assert {name for name in found if name.startswith(".")} == set()
    assert not found & {"tqdm", *OPTIONAL}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_assigns_each_name_once(path: Path) -> None:
    """A second constant of a name would be what all functions see, the ones above it too."""
    assigned = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    names = [target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)]
    assert len(names) == len(set(names)), sorted(names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_frameworks_are_imported_inside_functions(path: Path) -> None:
    """No module needs them to be imported."""
    assert not {name for name, at_module_level in imports(path) if at_module_level} & OPTIONAL


def test_importing_the_package_brings_no_framework() -> None:
    """Nor the parts of Matplotlib that open windows."""
    done = run_python("import sys, fastlrp; print(*sys.modules)")
    loaded = set(done.stdout.split())
    assert "fastlrp.network" in loaded, done.stderr
    assert not loaded & {*OPTIONAL, "matplotlib.pyplot", "zennit", "captum"}


def test_without_the_compiled_part_importing_says_what_to_do(tmp_path: Path) -> None:
    """As in the sources, from a folder where nothing was built."""
    shutil.copytree(PACKAGE, tmp_path / "fastlrp", ignore=shutil.ignore_patterns("_kernels.*", "data"))
    done = run_python(f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
sys.meta_path = [finder for finder in sys.meta_path if "ditable" not in str(finder)]  # it would find the real one
import fastlrp
""")
    error = done.stderr.splitlines()[-1]
    assert re.search(r"^ImportError: .*No module named 'fastlrp\._kernels'.*pip install -e \.", error), done.stderr


# ---- names ----

def public_names() -> list[tuple[str, Any]]:
    """Everything that `fastlrp` offers, with the public names of its modules and classes."""
    found: dict[str, Any] = {}
    for name in fastlrp.__all__:
        value = getattr(fastlrp, name)
        found[f"fastlrp.{name}"] = value
        if isinstance(value, types.ModuleType):
            found.update({f"{value.__name__}.{key}": item for key, item in vars(value).items()
                          if not key.startswith("_") and getattr(item, "__module__", "").startswith(value.__name__)})
    for name, value in list(found.items()):
        if inspect.isclass(value):
            found.update({f"{name}.{key}": getattr(value, key) for key, item in vars(value).items()
                          if not key.startswith("_") and (callable(item) or isinstance(item, property))})
    return sorted((name, value) for name, value in found.items()
                  if callable(value) or isinstance(value, (property, types.ModuleType)))


@pytest.mark.parametrize(("name", "value"), public_names(), ids=lambda v: v if isinstance(v, str) else "")
def test_public_names_have_docstrings(name: str, value: Any) -> None:
    """Of their own, or from the class that they override."""
    text = inspect.getdoc(value) or ""
    if "." in name and not text:
        holder = getattr(fastlrp, name.split(".")[1], None)
        text = inspect.getdoc(getattr(holder, name.split(".")[-1], None)) or ""
    generated = inspect.isclass(value) and text.startswith(f"{value.__name__}(")
    assert len(text) > 10 and not generated, f"{name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_say_what_they_are(path: Path) -> None:
    """Every file opens with its contract, and is of a size to be read."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body
    assert len(path.read_text().splitlines()) <= 420


def test_rules_name_their_source_or_formula() -> None:
    """A rule's docstring has its formula; those of the field's papers say where they are from."""
    base = fastlrp.rules.LinearRule
    for name, value in vars(fastlrp.rules).items():
        if inspect.isclass(value) and issubclass(value, base) and value is not base:
            assert re.search(r"[=·/]|Source", value.__doc__), name


def test_everything_exported_exists() -> None:
    """__all__ has no stale names, and no private ones but the version."""
    assert len(set(fastlrp.__all__)) == len(fastlrp.__all__)
    for name in fastlrp.__all__:
        assert hasattr(fastlrp, name)
        assert not name.startswith("_") or name == "__version__"


def test_the_package_is_typed() -> None:
    """py.typed ships, and the compiled module has a stub with its public names."""
    assert (PACKAGE / "py.typed").exists()
    stub = ast.parse((PACKAGE / "_kernels.pyi").read_text())
    known = {node.name for node in stub.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    offered = {name for name, value in vars(_kernels).items()
               if not name.startswith("_") and callable(value) and not isinstance(value, types.ModuleType)}
    hidden = {"Block"}
    assert offered - hidden <= known
