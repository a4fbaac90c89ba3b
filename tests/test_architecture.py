"""The house rules that a machine can check: import arrows, homes of heavy libraries, budgets, a light `import mixopt`."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mixopt", "proxies", "pipelines")
MAY_IMPORT = {"mixopt": set(), "proxies": {"mixopt"}, "pipelines": {"mixopt", "proxies"}}
HOMES = {
    "lightgbm": ["mixopt/laws/lightgbm.py"],
    "matplotlib": ["mixopt/drawing.py", "mixopt/plots.py"],
    "pandas": ["mixopt/tables.py"],
    "pydantic": ["mixopt/full.py", "mixopt/job.py", "mixopt/parsing.py", "mixopt/sections.py"],
    "ruamel": ["mixopt/yaml_text.py"],
    "datasets": ["pipelines/readers.py"],
    "tokenizers": ["pipelines/tokenizer.py"],
    "pyarrow": ["pipelines/tokenizer.py"],
    "olmo_core": ["pipelines/full/engine.py"],
    "lm_eval": ["pipelines/full/harness.py"],
    "safetensors": ["pipelines/full/llama.py", "proxies/checkpoint.py"],
    "ray": ["pipelines/full/ray_train.py", "pipelines/ray_executor.py"],
    "mlflow": ["pipelines/mlflow_tracker.py"],
    "typer": [
        f"pipelines/{name}.py"
        for name in ("cli", "cli_compare", "cli_full", "cli_online", "cli_proxies", "cli_shards", "cli_tables")
    ],
    "threadpoolctl": ["pipelines/cli.py"],
    "rich": ["pipelines/progress.py", "pipelines/terminal.py"],
}
# each line of mixopt/ imports only from the lines below it (docs/decisions.md says where this order comes from)
ORDER = [
    ["report", "report_comparison"],
    ["report_text", "page"],
    ["report_uncertainty", "report_feedback", "plots", "plots_comparison"],
    ["drawing"],
    ["report_numbers", "report_blocks", "results", "compare", "feedback"],
    ["search", "store", "job", "full"],
    ["backends", "methods", "validate", "handoff", "tables"],
    ["mixmin", "recommend", "parsing", "sections"],
    ["scale_laws", "uncertainty", "plausible"],
    ["designs", "fidelity", "planner", "proposers", "region"],
    ["laws", "quality", "ranks", "rates"],
    ["study"],
    ["runs", "data", "progress", "transfers", "yaml_text"],
    ["rehearsal"],
    ["policies"],
    ["policy"],
    ["space", "repetition"],
    ["constraints", "compositional", "limits"],
    ["barrier", "polytope"],
    ["mixture", "domains", "ladder"],
    ["errors", "files"],
]
FILES = sorted(p for package in PACKAGES for p in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=label)
def test_arrows_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    others = {name.partition(".")[0] for name in imports(path)} & {*PACKAGES, "tests", "benchmarks", "notebooks"}
    assert others - {package} <= MAY_IMPORT[package]
    if package != "proxies" and package != "pipelines":
        assert "torch" not in {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "mixopt").rglob("*.py")), ids=label)
def test_layers_of_mixopt(path: Path) -> None:
    level = {module: i for i, line in enumerate(ORDER) for module in line}
    own = path.relative_to(ROOT / "mixopt").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mixopt" and len(parts) > 1 and parts[1] in level and parts[1] != own:
            assert level[parts[1]] >= level[own], f"{own} imports {parts[1]} from a line above"


@pytest.mark.parametrize("library", HOMES)
def test_each_heavy_library_has_one_home(library: str) -> None:
    users = {label(p) for p in FILES if library in {name.partition(".")[0] for name in imports(p)}}
    assert users <= set(HOMES[library])
    assert users


@pytest.mark.parametrize("path", FILES, ids=label)
def test_budgets(path: Path) -> None:
    text = path.read_text()
    small = label(path).startswith(("mixopt/methods/", "mixopt/laws/", "mixopt/scale_laws/", "mixopt/policies/"))
    assert text.count("\n") <= (200 if small else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
            own = 1 if node.args.args and node.args.args[0].arg in ("self", "cls") else 0
            count = len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs) - own
            command = any("app.command" in ast.unparse(d) for d in node.decorator_list)  # its options are parameters
            assert count <= 7 or command, f"{node.name} has {count} parameters"


def test_nine_functions_in_ten_are_short() -> None:
    lengths = [
        (node.end_lineno or 0) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]
    assert sum(length <= 40 for length in lengths) >= 0.9 * len(lengths)


def test_no_drawers_for_odds_and_ends() -> None:
    assert not [label(p) for p in FILES if p.stem in ("utils", "common", "helpers", "misc")]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("mixopt", "torch ray mlflow lightgbm matplotlib pandas datasets"),
        ("mixopt.job", "torch ray mlflow lightgbm matplotlib datasets"),
        ("mixopt.search", "torch ray mlflow lightgbm matplotlib datasets pandas"),
        ("proxies.train", "ray mlflow lightgbm matplotlib pandas datasets pydantic sklearn"),
        ("pipelines.cli", "torch ray mlflow lightgbm matplotlib pandas datasets"),
    ],
)
def test_imports_stay_light(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(*(n for n in {absent.split()} if n in sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == ""


def test_every_package_is_installed() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        str(p.parent.relative_to(ROOT)).replace("/", ".")
        for name in PACKAGES
        for p in (ROOT / name).rglob("__init__.py")
    }
    assert set(known) == found | set(PACKAGES)
