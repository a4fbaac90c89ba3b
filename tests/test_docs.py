"""What the documents say is real: commands, options, job keys, methods, pictures."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import pipelines.cli_compare
import pipelines.cli_full
import pipelines.cli_online
import pipelines.cli_proxies
import pipelines.cli_shards
import pipelines.cli_tables  # noqa: F401 - like the lines above, registers its commands
from mixopt.backends import BACKENDS, Stack
from mixopt.full import Full
from mixopt.full import parse as parse_full
from mixopt.job import Job, Section, load, parse
from mixopt.laws import LAWS
from mixopt.methods import METHODS
from mixopt.yaml_text import parse_yaml
from pipelines.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def command_lines() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page.read_text(), "sh") for line in block.splitlines()]
    inline = [found for page in PAGES for found in re.findall(r"`(mixopt [^`]+)`", page.read_text())]
    return sorted({line.partition("  #")[0].strip() for line in lines if line.startswith("mixopt ")} | set(inline))


@pytest.mark.parametrize("line", command_lines())
def test_commands_and_options_exist(line: str) -> None:
    _, name, *words = shlex.split(line)
    assert name in COMMANDS
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_shown_and_has_help_with_an_example(name: str) -> None:
    assert f"mixopt {name}" in README
    assert f"Example: `mixopt {name}" in (COMMANDS[name].help or "")
    assert "--json" in {option for parameter in COMMANDS[name].params for option in parameter.opts}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "check", "fmt", "venv"} <= targets


@pytest.mark.parametrize(("name", "stack"), BACKENDS.items())
def test_every_backend_has_its_row_in_the_readme(name: str, stack: Stack) -> None:
    (row,) = re.findall(rf"^\| `{name}` \| (\w+).*? \| (.*?) \|", README, re.MULTILINE)
    assert row[0] == stack.unit
    assert (row[1] != "no") == stack.schedule


@pytest.mark.parametrize("block", blocks(README, "yaml"))
def test_job_in_the_readme_is_a_job(block: str) -> None:
    job = parse(parse_yaml(block, "README"), "README")
    assert job.name == "my-search"


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/jobs/*.yaml")), ids=lambda p: p.name)
def test_job_files_load(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXOPT_CORPUS", "corpus")
    assert load(path).name == path.stem


def keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        nested = [a for a in (field.annotation, *arguments(field.annotation)) if is_section(a)]
        if nested:
            yield from keys(nested[0], f"{path}.")
        else:
            yield path


def arguments(annotation: Any) -> list[Any]:
    inner = list(getattr(annotation, "__args__", ()))
    return inner + [a for i in inner for a in arguments(i)]


def is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def test_every_job_key_is_documented() -> None:
    page = (ROOT / "docs" / "job-file.md").read_text().replace("domains.<name>.", "domains.")
    documented = set(re.findall(r"`([a-z_.]+)`", page))
    for key in keys(Job):
        parent = key.rpartition(".")[0]
        assert key in documented or parent in documented, key


def test_every_key_of_a_full_run_is_documented() -> None:
    page = (ROOT / "docs" / "full-scale.md").read_text()
    rows = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    documented = {key for cell in rows for key in re.findall(r"`([a-z_.]+)`", cell)}
    real = set(keys(Full))
    assert {key for key in real if key not in documented and key.partition(".")[0] not in documented} == set()
    files = {"full.lock.yaml", "events.jsonl", "record.json", "failure.json"}
    assert documented - real - {key.partition(".")[0] for key in real} <= files


def test_full_runs_of_the_documents_are_full_runs() -> None:
    (block,) = blocks((ROOT / "docs" / "full-scale.md").read_text(), "yaml")
    assert parse_full(parse_yaml(block, "page"), "page").model == "1b"


def test_documented_keys_exist() -> None:
    page = (ROOT / "docs" / "job-file.md").read_text().replace("domains.<name>.", "domains.")
    first_column = [row.split("|")[1] for row in page.splitlines() if row.startswith("| `")]
    real = set(keys(Job))
    known = real | {k.rpartition(".")[0] for k in real}
    for cell in first_column:
        for key in re.findall(r"`([a-z_.]+)`", cell):
            assert key in known, key


def test_methods_and_laws_are_in_the_readme() -> None:
    for name in (*METHODS, *LAWS):
        assert f"`{name}`" in README


def test_sources_are_given() -> None:
    for path in sorted((ROOT / "mixopt").glob("methods/*.py")) + sorted((ROOT / "mixopt").glob("laws/*.py")):
        if path.stem not in ("__init__", "base"):
            assert "Source: " in path.read_text(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
