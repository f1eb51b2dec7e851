"""One list of packages: pyproject.toml -> requirements.txt -> environment.yml -> the environment.

After a change in pyproject.toml, compile the lock again:

    uv pip compile pyproject.toml --all-extras --universal --python-version 3.10 --no-header
        --no-annotate --no-emit-index-url --no-emit-find-links -o requirements.txt
"""

import pkgutil
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_structure import imports

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
PYTHONS = ["3.10", "3.11", "3.12"]
MACHINES = {
    "linux": {"sys_platform": "linux", "platform_machine": "x86_64", "os_name": "posix"},
    "mac": {"sys_platform": "darwin", "platform_machine": "arm64", "os_name": "posix"},
}


def direct(root: Path) -> list[Requirement]:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]["test"]
    return [Requirement(line) for line in project["dependencies"] + extras]


def pins(requirements: Iterable[Requirement], environment: dict[str, str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in chosen, f"{name} is pinned twice"
            chosen[name] = str(requirement.specifier)
    return chosen


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_lock_holds_every_direct_pin(root: Path, machine: str, python: str) -> None:
    environment = {"python_version": python, "python_full_version": f"{python}.9"}
    environment |= {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    environment |= MACHINES[machine]
    locked = map(Requirement, (root / "requirements.txt").read_text().splitlines())
    wanted, lock = pins(direct(root), environment), pins(locked, environment)
    assert all(version.startswith("==") for version in [*wanted.values(), *lock.values()])
    assert wanted.items() <= lock.items()


def test_imports_are_declared_and_those_of_benchmarks_exist(root: Path) -> None:
    """Nothing under lib/ imports a package that only a transitive dependency brings."""
    names = {"PIL": "pillow", "cv2": "opencv-python-headless", "sklearn": "scikit-learn"}
    names |= {"yaml": "pyyaml", "umap": "umap-learn", "open_clip": "open-clip-torch"}
    packages, missing = {folder.name for folder in (root / "lib").iterdir()}, set()
    declared = packages | {canonicalize_name(r.name) for r in direct(root)}
    for file in (root / "lib").rglob("*.py"):
        for module in re.findall(r"^\s*(?:from|import) (\w+)", file.read_text(), re.M):
            name = canonicalize_name(names.get(module, module))
            if module not in sys.stdlib_module_names and name not in declared:
                missing.add(f"{name} ({file.name})")
    assert not missing
    for script in (root / "benchmarks").glob("*.py"):
        for name in imports(script.read_text(encoding="utf-8")):
            if name.split(".")[0] in packages:
                pkgutil.resolve_name(name)


def test_conda_and_public_checks_take_the_same_list_and_no_file_names_a_host(root: Path) -> None:
    environment = yaml.safe_load((root / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if str(d).startswith("python="))
    assert python.removeprefix("python=") in PYTHONS
    assert environment["dependencies"][-1]["pip"] == ["-r requirements.txt", "-e ."]
    assert not re.search(r"://|--\w", (root / "requirements.txt").read_text())
    text = (root / ".github/workflows/ci.yml").read_text()
    jobs = yaml.safe_load(text)["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == PYTHONS and "://" not in text
