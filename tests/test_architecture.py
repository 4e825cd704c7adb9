"""The rules of the house that can be read off the source."""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import keras_lowbit

PACKAGE = Path(keras_lowbit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 300

# Imports go downwards or stay on a level. The longest prefix that fits decides.
LEVELS = {
    "_keras": 0, "checks": 0, "config": 0, "recipes": 0, "quantizers.numerics": 0,
    "graph": 1, "layer_table": 1, "keras_layers": 1, "reader": 1, "callbacks": 1, "quantizers.ranges": 1,
    "quantizers.tensor_quantizers": 1, "reconstruct.variables": 1, "reconstruct.moments": 1,
    "calibration_data": 2, "data_free": 2, "accounting": 2, "checkpoint": 2, "preprocess": 2, "quantizers": 2,
    "reconstruct": 2, "finetune": 2,
    "quantized_model": 3, "saved_model": 3, "analysis": 3, "export": 3, "search": 3,
    "version": 0, "preflight": 3, "pipeline": 4, "annotated": 4,
    "converter": 5,
    "": 5, "cli": 5, "__main__": 5,
}  # fmt: skip
MAY_IMPORT_TFMOT = ("quantizers.tensor_quantizers", "quantizers.quantize_configs")


def module_of(path: Path) -> str:
    """ "quantizers.insert" for keras_lowbit/quantizers/insert.py; "" for the package itself."""
    return (
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip(".")
    )


MODULES = {module_of(path): ast.parse(path.read_text()) for path in FILES}


def level_of(module: str) -> int:
    parts = module.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((LEVELS[prefix] for prefix in prefixes if prefix in LEVELS), LEVELS[""])


def is_type_checking(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)


def imported(node: ast.AST) -> list[str]:
    """Absolute names that an import statement binds; an empty list for anything else."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def own_imports(tree: ast.Module, at_import_time: bool) -> Iterator[str]:
    """The modules of this package that a module imports; at import time or at all."""
    statements: list[ast.AST] = [s for s in tree.body if not is_type_checking(s)]
    if not at_import_time:
        statements = [node for statement in statements for node in ast.walk(statement)]
    for statement in statements:
        for name in imported(statement):
            if name.split(".")[0] != "keras_lowbit" or name == "keras_lowbit.__version__":
                continue
            module = name.removeprefix("keras_lowbit").lstrip(".")
            while module not in MODULES:
                module = module.rpartition(".")[0]
            yield module


def circles(edges: dict[str, set[str]]) -> set[str]:
    """The nodes of a directed graph that lie on a circle or only lead to and from circles."""
    left = dict(edges)
    while True:
        ends = {node for node, targets in left.items() if not targets & set(left)}
        if not ends:
            return set(left)
        left = {node: targets for node, targets in left.items() if node not in ends}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "keras_lowbit")
def test_imports_go_downwards(module: str) -> None:
    for target in own_imports(MODULES[module], at_import_time=False):
        assert level_of(target) <= level_of(module), f"{module} imports {target}"


def test_no_import_circles() -> None:
    edges = {name: set(own_imports(tree, True)) - {name} for name, tree in MODULES.items()}
    assert circles(edges) == set()
    folders: dict[str, set[str]] = {}
    for name, targets in edges.items():
        folder = name.split(".")[0]
        folders.setdefault(folder, set()).update(target.split(".")[0] for target in targets)
    assert circles({name: targets - {name} for name, targets in folders.items()}) == set()


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "keras_lowbit")
def test_tfmot_and_keras_are_imported_in_their_places(module: str) -> None:
    for node in ast.walk(MODULES[module]):
        roots = {name.split(".")[0] for name in imported(node)}
        assert "models" not in roots
        assert "benchmarks" not in roots
        assert "tensorflow_model_optimization" not in roots or module in MAY_IMPORT_TFMOT
        assert not roots & {"keras", "tf_keras"} or module == "_keras"
        is_tf_keras = (
            isinstance(node, ast.Attribute)
            and node.attr == "keras"
            and isinstance(node.value, ast.Name)
            and node.value.id in ("tf", "tensorflow")
        )
        assert not is_tf_keras, f"{module} uses tf.keras"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tensorflow"):
            assert "keras" not in {alias.name for alias in node.names}
    for statement in MODULES[module].body:
        assert not any(name.split(".")[0] == "keras" for name in imported(statement))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module or "keras_lowbit")
def test_no_prints_and_no_asserts(module: str) -> None:
    for node in ast.walk(MODULES[module]):
        assert not isinstance(node, ast.Assert)
        if isinstance(node, ast.Call):
            assert not (isinstance(node.func, ast.Name) and node.func.id == "print")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_FILE
    assert path.stem not in ("utils", "helpers", "misc", "common")
    assert not text.strip() or ast.get_docstring(ast.parse(text))


def test_no_submodule_bears_the_name_of_a_public_function() -> None:
    for name in keras_lowbit.__all__:
        if not isinstance(getattr(keras_lowbit, name), types.ModuleType):
            assert name not in MODULES


def test_public_functions_have_docstrings() -> None:
    for module, tree in MODULES.items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{module}.{node.name}"
