"""Who may import whom: the layers of docs/architecture.md, held by a walk over every module's syntax tree."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_llmperf

PACKAGE = Path(pytest_llmperf.__file__).parent
BASE = {"units", "errors", "metrics", "secrets"}
FLOW = ["experiment", "deploy", "load", "measure", "judge", "report"]
ALLOWED = {layer: BASE | set(FLOW[: place + 1]) for place, layer in enumerate(FLOW)} | {
    "units": {"errors"},
    "errors": set(),
    "metrics": {"units", "errors"},
    "secrets": set(),
    "sim": {"sim", "units", "errors"},
    "plugin": BASE | {*FLOW, "plugin"},
    "cli": BASE | {*FLOW, "sim", "cli"},
}
ALLOWED["deploy"] = ALLOWED["deploy"] | {"sim"}
PLUGIN_ONLY = {"pytest", "_pytest", "allure", "allure_commons", "allure_pytest"}
LAZY = {"pandas", "scipy", "matplotlib", "pyarrow", "kubernetes", "rich", "jinja2"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every absolute module name that is imported anywhere below ``tree``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, "imports are absolute"
            if node.module == "pytest_llmperf":
                yield from (f"pytest_llmperf.{alias.name}" for alias in node.names)
            else:
                yield node.module


def loaded_at_import(tree: ast.Module) -> Iterator[str]:
    """What importing the module imports: its top level, without ``if TYPE_CHECKING``."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_what_its_layer_may(path: Path) -> None:
    layer = layer_of(path)
    wrong = [
        name
        for name in imports(ast.parse(path.read_text()))
        if name.startswith("pytest_llmperf.") and name.split(".")[1] not in ALLOWED[layer]
    ]
    assert not wrong, f"{layer} may import only {sorted(ALLOWED[layer])}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_plugin_knows_pytest(path: Path) -> None:
    tops = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))}
    assert layer_of(path) == "plugin" or not tops & PLUGIN_ONLY


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    tops = {name.split(".")[0] for name in loaded_at_import(ast.parse(path.read_text()))}
    assert not tops & LAZY


def test_every_layer_is_named() -> None:
    assert {layer_of(path) for path in MODULES} <= set(ALLOWED)


def test_reading_options_loads_none_of_the_heavy_libraries() -> None:
    """What ``pytest --help`` loads of this package, also by way of another module."""
    program = "import sys, pytest_llmperf.plugin.hooks as _; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & (LAZY | {"numpy", "pydantic", "yaml", "httpx"})
