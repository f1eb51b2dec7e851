"""The library's shape: imports go one way, names are unique, files stay short."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_notebooks import code

from companion import workflow
from companion.profiles import ROOT

LIB = ROOT / "lib"
FILES = {path.relative_to(LIB): path for path in sorted(LIB.rglob("*.py"))}
MAY_IMPORT = {  # beside media, which imports none of them
    "media": set(),
    "alertclip": set(),
    "miniworld": {"alertclip"},
    "curation": {"alertclip"},
    "detectors": {"alertclip"},
    "vagpt": {"alertclip", "detectors"},
    "companion": {"alertclip", "miniworld", "curation", "detectors", "vagpt"},
}
# Curation and vagpt ask chat models through one client, which no other package needs.
ALLOWED = {("vagpt", "curation.chat_models")}
# Lines today, which may only fall, and the size that each part should have.
MOST = {
    "lib/alertclip/": (3761, 4200),
    "lib/": (19_613, 15_000),
    "tests/": (9_007, 8500),
}
PARALLEL = ("vadclip", "anomalyclip")  # two packages with the same parts


def imports(source: str) -> Iterator[str]:
    """Modules that ``source`` imports, at its top or within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # "from alertclip import boxes" may name a module or an attribute: offer both
            yield from (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))


def module_file(module: str) -> Path | None:
    """File of a module of the library, relative to lib/."""
    path = Path(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p in FILES), None)


def reached(source: str) -> set[str]:
    """Packages that ``source`` imports, directly or through other modules of the library.

    Not through the profiles: those count by the values of the parameters.
    """
    found: set[Path] = {Path("companion/profiles.py")}
    queue = [source]
    while queue:
        for file in filter(None, map(module_file, imports(queue.pop()))):
            if file not in found:
                found.add(file)
                queue.append(FILES[file].read_text(encoding="utf-8"))
    return {file.parts[0] for file in found}


def test_packages_import_one_way() -> None:
    allowed, wrong = {own: {own, *others} for own, others in MAY_IMPORT.items()}, set()
    for own in allowed.keys() - {"media"}:
        allowed[own].add("media")
    for file, path in FILES.items():
        own = file.parts[0]
        for module in imports(path.read_text(encoding="utf-8")):
            package = module.split(".")[0]
            shared = any(own == a and module.startswith(b) for a, b in ALLOWED)
            if package in MAY_IMPORT and package not in allowed[own] and not shared:
                wrong.add(f"{file} imports {package}")
    assert not wrong, "\n".join(sorted(wrong))


def test_module_names_are_unique() -> None:
    files = [file for file in FILES if not {*PARALLEL} & {*file.parts}]
    names = Counter(file.stem for file in files if not file.stem.startswith("__"))
    assert not [name for name, count in names.items() if count > 1]
    assert not {"tools", "utils", "helpers"} & names.keys()


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*FILES.values(), *(ROOT / "tests").rglob("*.py")]
    }
    assert not {name: lines for name, lines in lengths.items() if lines > 300}
    core = [lines for name, lines in lengths.items() if name.startswith("lib/alertclip")]
    assert len(core) <= 30
    for part, (today, goal) in MOST.items():
        lines = sum(n for name, n in lengths.items() if name.startswith(part))
        assert lines <= today, f"{part} grows again ({lines} lines); its goal is {goal}"


@pytest.mark.parametrize("book", workflow.NOTEBOOKS, ids=lambda book: book.name)
def test_a_notebook_declares_the_packages_it_reaches(book: workflow.Notebook) -> None:
    assert reached(code(book.path)) <= {*workflow.CORE, *book.packages}
