"""The text that every machine has: several uneven domains, the same at each call, with nothing of the machine in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipelines import environment


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    return {name: list(part.read()) for name, part in environment.parts().items()}


def test_at_least_five_uneven_domains(texts: dict[str, list[str]]) -> None:
    sizes = {name: sum(len(text.encode()) for text in own) for name, own in texts.items()}
    assert len(sizes) >= 5
    assert sizes["python"] > 5_000_000
    assert max(sizes.values()) > 8 * min(sizes.values())
    assert all(len(own) >= 100 for own in texts.values())  # enough to hold some out


def test_documents_are_sections_without_trivia_and_duplicates(texts: dict[str, list[str]]) -> None:
    for own in texts.values():
        words = [" ".join(text.split()) for text in own]
        assert min(map(len, words)) >= environment.SHORTEST
        assert len(set(words)) == len(words)
        assert max(map(len, own)) <= 3 * environment.SECTION


def test_the_text_is_what_its_domain_says(texts: dict[str, list[str]]) -> None:
    marks = {"python": "def ", "headers": "#", "documentation": "the ", "licences": "copyright", "packages": "](http"}
    for name, mark in marks.items():
        assert sum(mark in text.lower() for text in texts[name]) > 0.2 * len(texts[name])


def test_nothing_of_this_machine_is_in_it(texts: dict[str, list[str]]) -> None:
    paths = {sys.prefix, sys.base_prefix} - {"/usr", "/usr/local"}
    assert not [path for path in paths for own in texts.values() for text in own if path in text]


def test_the_same_again(texts: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    again = environment.parts()
    assert {name: list(part.read()) for name, part in again.items()} == texts
    assert len({part.identity for part in again.values()}) == len(texts)


def test_the_order_of_files_is_that_of_their_names_not_of_the_folder(tmp_path: Path) -> None:
    files = []
    for i in range(20):
        (tmp_path / f"{i}.py").write_text(f"text {i}\n")
        files.append((f"{i}.py", tmp_path / f"{i}.py"))
    first = list(environment._texts(files))
    assert list(environment._texts(files[::-1])) == first != sorted(first)


def test_binary_vanished_and_minified_files_are_left_out(tmp_path: Path) -> None:
    contents = {"a.js": b"var a;\nvar b;\n", "b.js": b"x" * 500, "c.js": b"\xff\xfe", "d.js": None}
    for name, content in contents.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    assert list(environment._texts((name, tmp_path / name) for name in contents)) == ["var a;\nvar b;\n"]


def test_owners_take_turns_up_to_the_cap() -> None:
    owners = {"a": [f"a{i} " * 100 for i in range(9)], "b": ["b " * 200], "c": ["short", "c " * 200]}
    chosen = environment._select(1400, owners)
    assert [text[0] for text in chosen] == ["a", "b", "a", "c"]
    assert environment._select(10**9, owners)[-1].startswith("a8")


def test_what_else_is_on_the_search_path_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported packages add vendored copies of others to sys.path; they are not part of this environment's text."""
    before = {name: part.identity for name, part in environment.parts().items()}
    info = tmp_path / "colorama-9.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: colorama\nVersion: 9.0\n\n" + "A vendored description. " * 50
    )
    (info / "RECORD").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert {name: part.identity for name, part in environment.parts().items()} == before
