"""Hook of MkDocs: the parts of the site that are made from code, and the pages of the repository outside docs/.

- `<!-- generated: help -->` becomes what `--help` of each command prints.
- `<!-- generated: schemas -->` becomes the fields of each JSON document; the schemas themselves are files of the site.
- What stands between `<!-- off the site -->` and `<!-- end -->` is for readers of the file, and left out of the site.
- CONTRIBUTING.md, CHANGELOG.md and the notes and records of benchmarks become pages.
"""

import ast
import functools
import inspect
import os
import re
import subprocess
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("generate", "bench", "profile", "summarize", "models")
_WORDS = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null", Any: "any"}


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Add the records of benchmarks to the navigation."""
    assert config.nav is not None
    for entry in config.nav:
        if isinstance(entry, dict) and "Benchmarks" in entry:
            entry["Benchmarks"] += [
                target for source, target in moved_pages().items() if source.startswith("benchmarks/")
            ]
    return config


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages from outside docs/, and the schemas."""
    from mkdocs.structure.files import File

    for source, target in moved_pages().items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=with_links(text, source)))
    for name, (_, schema) in documents().items():
        content = msgspec.json.format(msgspec.json.encode(schema), indent=2)
        files.append(File.generated(config, f"schemas/{name}.schema.json", content=content))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Fill in the generated parts, and point links out of docs/ to the pages of the site."""
    if page.file.src_uri not in moved_pages().values():
        markdown = with_links(for_the_site(markdown), f"docs/{page.file.src_uri}")
    markdown = re.sub(r"^<!-- generated: help -->$", lambda _: help_pages(), markdown, flags=re.MULTILINE)
    return re.sub(r"^<!-- generated: schemas -->$", lambda _: field_tables(), markdown, flags=re.MULTILINE)


@functools.cache
def moved_pages() -> dict[str, str]:
    """Return the page of the site for each file outside docs/ that is one."""
    notes = sorted((ROOT / "benchmarks").glob("*.md"))
    records = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    named = {path.relative_to(ROOT).as_posix(): f"records/{path.name}" for path in [*notes, *records]}
    return {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", **named}


def for_the_site(markdown: str) -> str:
    """Return a page without the parts that are for readers of the file."""
    return re.sub(r"^<!-- off the site -->\n.*?^<!-- end -->\n", "", markdown, flags=re.MULTILINE | re.DOTALL)


def with_links(markdown: str, source: str) -> str:
    """Return a file's text with its links to other files of the repository pointing to pages of the site."""
    here = moved_pages().get(source, source.removeprefix("docs/"))

    def moved(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = normpath(f"{dirname(source)}/{path}").lstrip("/")
        if target.startswith("docs/"):
            page = target.removeprefix("docs/")
        elif target in moved_pages():
            page = moved_pages()[target]
        else:
            return text  # a file of the repository, but not of the site
        return f"[{text}]({relpath(page, dirname(here) or '.')}{anchor})"

    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)", moved, markdown)


def help_pages() -> str:
    """Return the help page of every command."""
    return "\n".join(f"## roseinfer {name}\n\n```text\n{help_text(name)}```\n" for name in COMMANDS)


def help_text(command: str) -> str:
    """Return what `roseinfer COMMAND --help` prints to a reader with 80 columns."""
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    program = "import sys; sys.argv[0] = 'roseinfer'; from roseinfer.__main__ import main; main()"
    call = [sys.executable, "-c", program, command, "--help"]
    ended = subprocess.run(call, env=environment, capture_output=True, encoding="utf-8", check=True)
    return ended.stdout


def documents() -> dict[str, tuple[type[msgspec.Struct], dict[str, Any]]]:
    """Return the struct and the JSON Schema of each JSON document."""
    from roseinfer.advice.prediction_scores import ScoreCard
    from roseinfer.advice.predictions import Predictions
    from roseinfer.advice.tried_advice import TryReport
    from roseinfer.bench.json_schema import bench_schema
    from roseinfer.bench.results import BenchResults
    from roseinfer.profiling.run_dir import RunManifest
    from roseinfer.trace import Summary
    from roseinfer.trace.summary.summary_schema import summary_schema

    return {
        "bench": (BenchResults, bench_schema()),
        "summary": (Summary, summary_schema()),
        "manifest": (RunManifest, _schema(RunManifest, "manifest.json of a run directory")),
        "try": (TryReport, _schema(TryReport, "roseinfer summarize --try --json")),
        "predictions": (Predictions, _schema(Predictions, "predictions.json of a run directory")),
        "scores": (ScoreCard, _schema(ScoreCard, "roseinfer summarize --scores --json")),
    }


def _schema(struct: type[msgspec.Struct], title: str) -> dict[str, Any]:
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": title, **msgspec.json.schema(struct)}


def field_tables() -> str:
    """Return a table of fields for every struct of the documents, each shown once."""
    seen: set[type] = set()
    parts = []
    for name, (document, schema) in documents().items():
        title = f"`{schema['title'].removeprefix('roseinfer ')}`"
        parts.append(f"## {title}\n\nSchema: [{name}.schema.json](schemas/{name}.schema.json).\n")
        for struct in _structs(document):
            if struct not in seen:
                seen.add(struct)
                parts.append(_table(struct))
    return "\n".join(parts)


def _structs(root: type) -> Iterator[type]:
    """Yield a struct and all structs in its fields, each once, nearest first."""
    queue, seen = [root], {root}
    while queue:
        struct = queue.pop(0)
        yield struct
        for hint in typing.get_type_hints(struct).values():
            for found in _structs_in(hint):
                if found not in seen:
                    seen.add(found)
                    queue.append(found)


def _structs_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for argument in typing.get_args(hint):
        yield from _structs_in(argument)


def _table(struct: type) -> str:
    about = _first_paragraph(inspect.getdoc(struct) or "")
    meanings, hints = _meanings(struct), typing.get_type_hints(struct)
    rows = [
        f"| `{encoded}` | {_type_words(hints[name])} | {meanings.get(name, '')} |"
        for name, encoded in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    ]
    header = "| field | type | meaning |\n|---|---|---|\n"
    return f"### {struct.__name__}\n\n{about}\n\n{header}" + "\n".join(rows) + "\n"


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _meanings(struct: type) -> dict[str, str]:
    """Return the docstrings of a struct's fields, those of its bases included."""
    found: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        if issubclass(base, msgspec.Struct) and base is not msgspec.Struct:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            assert isinstance(body, ast.ClassDef)
            found |= dict(_documented(body.body))
    return found


def _documented(statements: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, about in pairwise(statements):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(about, ast.Expr)
            and isinstance(about.value, ast.Constant)
        ):
            yield field.target.id, " ".join(str(about.value.value).split()).replace("|", r"\|")


def _type_words(hint: Any) -> str:
    """Return a type in JSON's words, with links to structs."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return " or ".join(_type_words(argument) for argument in arguments)
    if origin is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin is typing.Annotated:
        return _type_words(arguments[0])
    if origin in {list, tuple}:
        items = [argument for argument in arguments if argument is not Ellipsis]
        return f"list of {' and '.join(_type_words(item) for item in items)}"
    if origin is dict:
        return f"object of {_type_words(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return _WORDS.get(hint, str(hint))
