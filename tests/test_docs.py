"""Pages and benchmark notes name only what exists: files, modules, spans, options, make targets, every contract."""

import ast
import functools
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from roseinfer.cli.app import app

ROOT = Path(__file__).parents[1]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SKILL.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.md")),
]

TUTORIAL_SPANS = ("roseinfer.decode_step_sessions.",)
"""Spans of the tutorial engine, whose trace the README explains; that engine is not in this repository."""
FOREIGN_OPTIONS = {"--profiler-config", "--nproc-per-node"}
"""Options of other programs, which the pages explain: vLLM's, for recording a trace, and torchrun's."""


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request: pytest.FixtureRequest) -> str:
    path: Path = request.param
    return path.read_text(encoding="utf-8").replace(r"\_", "_")


def test_every_path_exists(page: str) -> None:
    named = re.findall(r"(?<![\w./~-])(?:roseinfer|tests|configs|benchmarks|docs|examples)/[\w./*-]*", page)
    missing = [path for path in named if not list(ROOT.glob(path.rstrip("./")))]
    assert not missing


def test_every_file_named_alone_exists(page: str) -> None:
    names = {path.name for path in sources()}
    missing = [name for name in re.findall(r"`(\w+\.py)`", page) if name not in names]
    assert not missing


def test_every_dotted_name_is_a_module_an_attribute_or_a_span(page: str) -> None:
    named = re.findall(r"(?<![\w./-])roseinfer(?:\.\w+)+", page)
    missing = [name for name in named if not (is_importable(name) or is_span(name))]
    assert not missing


def test_every_option_exists(page: str) -> None:
    scripts = [*sources("benchmarks"), *sources("examples"), *sources("docs"), ROOT / "Makefile"]
    elsewhere = "".join(path.read_text(encoding="utf-8") for path in scripts)
    known = options() | FOREIGN_OPTIONS
    missing = [
        option
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", page)
        if option not in known and f'"{option}' not in elsewhere and f" {option} " not in elsewhere
    ]
    assert not missing


def test_every_make_target_exists(page: str) -> None:
    targets = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    missing = [
        target for target in re.findall(r"(?:`|^\$ )make ([a-z-]+)", page, re.MULTILINE) if target not in targets
    ]
    assert not missing


def test_every_link_to_another_page_works(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page) if not link.startswith("http")]
    missing = [link for link in links if not (ROOT / link).exists() and not (ROOT / "docs" / link).exists()]
    assert not missing


def test_the_architecture_names_every_package_span_and_contract() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "roseinfer").glob("*/__init__.py")}
    assert [name for name in sorted(packages) if f"`roseinfer/{name}/`" not in text] == []
    assert [name for name in sorted(spans()) if name not in text] == []
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert [contract["name"] for contract in contracts if f"| {contract['name']} |" not in text] == []


def test_the_tutorial_shows_the_methods_of_its_example() -> None:
    tutorial = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    example = (ROOT / "examples" / "decode_loop.py").read_text(encoding="utf-8")
    methods = re.findall(r"```python\n(def append.*?)```", tutorial, re.DOTALL)
    assert len(methods) == 2
    assert [method for method in methods if textwrap.indent(method, "    ") not in example] == []


def sources(folder: str = "") -> list[Path]:
    folders = [folder] if folder else ["roseinfer", "tests", "benchmarks", "examples", "docs"]
    return [path for each in folders for path in (ROOT / each).rglob("*.py")]


@functools.cache
def spans() -> set[str]:
    """Return the names of all spans that the package opens."""
    text = "".join(path.read_text(encoding="utf-8") for path in sources("roseinfer"))
    return set(re.findall(r'span\("(roseinfer\.[\w.]+)"', text))


def is_span(name: str) -> bool:
    return name in spans() or name.startswith(TUTORIAL_SPANS)


def is_importable(name: str) -> bool:
    """True if `name` is a module of the package, or a module with a definition of every part after it."""
    at, parts = ROOT / "roseinfer", name.split(".")[1:]
    while parts and (at / parts[0]).is_dir():
        at /= parts.pop(0)
    file = at / "__init__.py"
    if parts and (at / f"{parts[0]}.py").is_file():
        file = at / f"{parts.pop(0)}.py"
    return file.is_file() and set(parts) <= definitions(file)


@functools.cache
def definitions(file: Path) -> set[str]:
    """Return the names that a file defines or imports, at any depth."""
    return set(_definitions(ast.parse(file.read_text(encoding="utf-8"))))


def _definitions(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.alias):
            yield node.asname or node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


@functools.cache
def options() -> set[str]:
    """Return the names of all options that commands offer. Hidden ones exist only to be refused."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    params = [param for command in [group, *group.commands.values()] for param in command.params]
    shown = [param for param in params if not getattr(param, "hidden", False)]
    return {"--help", *(name for param in shown for name in [*param.opts, *param.secondary_opts])}
