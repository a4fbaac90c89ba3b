"""The corpus that needs no download: real text that comes with Python and with the packages mixopt depends on.

Only mixopt's own dependencies are read, without its extras, so that the text depends on their versions and on nothing
else that is installed. Packages take turns and their files come in the order of a hash of their names: wherever a
domain's cap falls, it is a fair cut.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from itertools import zip_longest
from pathlib import Path

from mixopt.errors import DataError
from pipelines.readers import Part

SECTION = 2_000  # characters: longer texts are cut
SHORTEST = 200  # characters of a section
LONGEST_LINE = 200  # characters, the mean of a file: longer ones are data or minified
SMALLEST = 200_000  # characters of a domain
DOCUMENTED = ("numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "torch")
Named = tuple[str, Path]
NOT_SOURCE = re.compile(r"(^|/)(tests?|idle_test|site-packages|dist-packages|pydoc_data|config-|_sysconfigdata)")


def parts() -> dict[str, Part]:
    """The domains of this environment. Raises DataError where mixopt's own metadata are missing."""
    packages = _dependencies()
    files = {name: [(str(f), Path(str(f.locate()))) for f in p.files or ()] for name, p in packages.items()}
    files["python"] = _below(Path(sysconfig.get_path("include")), "*.h")
    found = {
        "python": _select(6_000_000, _standard_library()),
        "headers": _select(4_000_000, _matching(files, r"\.(h|hpp|cuh)$")),
        "documentation": _select(3_000_000, _documentation(files)),
        "cython": _select(2_000_000, _matching(files, r"\.(pyx|pxd|pxi)$")),
        "stubs": _select(1_500_000, _matching(files, r"\.pyi$")),
        "packages": _select(1_000_000, {name: _description(package) for name, package in packages.items()}),
        "licences": _select(500_000, _matching(files, r"\.dist-info/.*(licen[cs]e|copying|notice|authors)")),
    }
    return {name: _part(name, texts) for name, texts in found.items() if sum(map(len, texts)) >= SMALLEST}


def _part(name: str, texts: list[str]) -> Part:
    return Part(name, hashlib.sha256("\0".join(texts).encode()).hexdigest(), lambda: iter(texts))


def _dependencies() -> dict[str, Distribution]:
    """The dependencies of mixopt and theirs, sorted by name; those for other platforms are not installed.

    Looked for where numpy is and nowhere else: imported packages may add copies of others to the search path.
    """
    found: dict[str, Distribution] = {}
    try:
        asked, where = ["mixopt"], [str(distribution("numpy").locate_file(""))]
        own = {"mixopt": distribution("mixopt")}
    except PackageNotFoundError:
        asked, where, own = [], [], {}
    while asked:
        name = re.sub(r"[-_.]+", "-", asked.pop()).lower()
        package = own.get(name) or next(iter(distributions(name=name, path=where)), None)
        if name in found or package is None:
            continue
        found[name] = package
        asked += [re.split(r"[^\w.-]", r)[0] for r in package.requires or () if not re.search(r"\bextra *==", r)]
    if "mixopt" not in found:
        raise DataError(
            "data.source: environment reads the packages mixopt depends on; install it (`pip install -e .`)."
        )
    return {name: package for name, package in sorted(found.items()) if name != "mixopt"}


def _select(cap: int, owners: Mapping[str, Iterable[str]]) -> list[str]:
    """Sections of the owners' texts, one text of each in turn, up to `cap` bytes; none twice."""
    sections: list[str] = []
    seen: set[str] = set()
    size = 0
    for turn in zip_longest(*owners.values(), fillvalue=""):
        for section in (section for text in turn for section in _sections(text)):
            words = " ".join(section.split())
            if len(words) < SHORTEST or words in seen:
                continue
            seen.add(words)
            sections.append(section)
            size += len(section.encode())
            if size >= cap:
                return sections
    return sections


def _sections(text: str) -> Iterator[str]:
    """Pieces of about SECTION characters, cut at blank lines where there are any."""
    section = ""
    for line in text.splitlines(keepends=True):
        section += line
        if len(section) >= (SECTION if line.isspace() else 2 * SECTION):
            yield section
            section = ""
    yield section


def _texts(files: Iterable[Named]) -> Iterator[str]:
    """The (name, path) files that are text written by people, in the order of a hash of their names."""
    for _, path in sorted(files, key=lambda file: hashlib.sha256(file[0].encode()).digest()):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if len(text) <= LONGEST_LINE * (text.count("\n") + 1):
            yield text


def _below(folder: Path, pattern: str) -> list[Named]:
    return [(path.relative_to(folder).as_posix(), path) for path in folder.rglob(pattern)]


def _matching(files: Mapping[str, list[Named]], pattern: str) -> dict[str, Iterator[str]]:
    """The texts of each owner's files whose names match."""
    named = re.compile(pattern, re.IGNORECASE)
    return {owner: _texts(file for file in own if named.search(file[0])) for owner, own in files.items()}


def _standard_library() -> dict[str, Iterator[str]]:
    """Python's own modules by package, without tests and what was generated for this machine."""
    owners: dict[str, list[Named]] = {}
    for name, path in sorted(_below(Path(sysconfig.get_path("stdlib")), "*.py")):
        if not NOT_SOURCE.search(name):
            owners.setdefault(name.partition("/")[0], []).append((name, path))
    return {owner: _texts(files) for owner, files in owners.items()}


def _documentation(files: Mapping[str, list[Named]]) -> dict[str, Iterator[str]]:
    """Python's reference, and the docstrings of the packages known for theirs."""
    from pydoc_data.topics import topics

    sources = {name: [f for f in files.get(name, []) if not NOT_SOURCE.search(f[0])] for name in DOCUMENTED}
    docstrings = {name: map(_docstrings, texts) for name, texts in _matching(sources, r"\.py$").items()}
    return {"python": (text for _, text in sorted(topics.items())), **docstrings}


def _docstrings(source: str) -> str:
    found = re.findall(r'"""(.+?)"""', source, re.DOTALL)
    return "\n\n".join(inspect.cleandoc(docstring) for docstring in found if len(docstring) >= SHORTEST)


def _description(package: Distribution) -> Iterator[str]:
    """What the package says of itself: the body of its metadata."""
    yield (package.read_text("METADATA") or "").partition("\n\n")[2]
