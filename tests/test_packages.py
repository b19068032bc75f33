"""The distributions hold what they should: the sdist the repository, the wheel the package and its data."""

import subprocess
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from try_packages import ROOT, build

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INFO = f"roseinfer-{PROJECT['version']}.dist-info"
LEFT_OUT = (".github/", ".pre-commit-config.yaml", ".gitignore")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tmp_path_factory.mktemp("packages") / "dist")


@pytest.fixture(scope="module")
def in_wheel(archives: list[Path]) -> set[str]:
    with zipfile.ZipFile(archives[0]) as wheel:
        return set(wheel.namelist())


@pytest.fixture(scope="module")
def in_sdist(archives: list[Path]) -> set[str]:
    with tarfile.open(archives[1]) as sdist:
        return {name.partition("/")[2] for name in sdist.getnames()}


def tracked(*folders: str) -> set[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("the files of the repository are known only in a clone")
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def test_the_sdist_holds_the_repository(in_sdist: set[str]) -> None:
    assert {name for name in tracked() if not name.startswith(LEFT_OUT)} <= in_sdist
    assert {"LICENSE", "docs/architecture.md", "mkdocs.yml", "Makefile", "constraints.txt", "PKG-INFO"} <= in_sdist


@pytest.mark.parametrize("name", [".venv/", "profiles/", "dist/", "site/", ".git/", ".github/"])
def test_the_sdist_holds_nothing_else(in_sdist: set[str], name: str) -> None:
    assert not [path for path in in_sdist if path.startswith(name) or path.endswith(".pyc")]


def test_the_wheel_holds_the_package_with_its_data_and_configs(in_wheel: set[str]) -> None:
    assert tracked("roseinfer") <= in_wheel
    assert {f"roseinfer/{name}" for name in tracked("configs")} <= in_wheel
    assert "roseinfer/py.typed" in in_wheel


def test_the_wheel_holds_nothing_else(in_wheel: set[str]) -> None:
    assert {name.partition("/")[0] for name in in_wheel} == {"roseinfer", INFO}
    assert f"{INFO}/licenses/LICENSE" in in_wheel


def test_the_metadata_name_the_command_the_licence_and_the_supported_pythons(archives: list[Path]) -> None:
    with zipfile.ZipFile(archives[0]) as wheel:
        metadata = Parser().parsestr(wheel.read(f"{INFO}/METADATA").decode())
        commands = wheel.read(f"{INFO}/entry_points.txt").decode()
    assert "roseinfer = roseinfer.__main__:main" in commands
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    pythons = {line.rpartition(" ")[2] for line in metadata.get_all("Classifier", []) if ":: Python :: 3." in line}
    assert pythons == {"3.11", "3.12", "3.13"}
