"""Workflow, templates, hooks and badges are well formed, and say what the project really does."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")

pytestmark = pytest.mark.skipif(not (ROOT / ".github").exists(), reason="the sdist has no files for GitHub")


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def supported_pythons() -> list[str]:
    return [line.rpartition(" ")[2] for line in PYPROJECT["project"]["classifiers"] if ":: Python :: 3." in line]


def test_the_workflow_runs_the_ci_script_and_covers_every_supported_python() -> None:
    jobs = load(".github/workflows/ci.yml")["jobs"]
    check, packages = jobs["check"]["steps"], jobs["packages"]
    assert {"run": "bash .ci/run"} in check
    [python] = [step["with"]["python-version"] for step in check if "setup-python" in step.get("uses", "")]
    assert [python, *packages["strategy"]["matrix"]["python-version"]] == supported_pythons()
    for step in [*check, *packages["steps"]]:
        for script in re.findall(r"[\w./]+\.py|\.ci/run", step.get("run", "")):
            assert (ROOT / script).is_file()


def test_make_check_runs_what_ci_runs() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    check = re.search(r"^check: (.*?)  ##.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    assert check is not None
    targets = re.findall(r"^make (\S+)(?: \|\| status=\$\?)?$", script, re.MULTILINE)
    assert sorted(targets) == sorted(check[1].split())
    for command in check[2].replace("$(BIN)", ".venv/bin").splitlines():
        assert command.strip().removeprefix("@") in script.splitlines()


def test_every_target_is_listed_by_help_and_is_phony() -> None:
    targets = re.findall(r"^([a-z][a-z-]*):(?!=)", MAKEFILE, re.MULTILINE)
    listed = re.findall(r"^([a-z][a-z-]*):.*  ## \w", MAKEFILE, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony is not None
    assert targets == listed
    assert sorted(phony[1].split()) == sorted(targets)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_forms_have_what_github_needs(form: Path) -> None:
    content = load(str(form.relative_to(ROOT)))
    assert {"name", "description", "body"} <= content.keys()
    identifiers = [field["id"] for field in content["body"]]
    assert len(identifiers) == len(set(identifiers))
    for field in content["body"]:
        assert field["type"] in {"textarea", "input", "dropdown", "checkboxes"}
        assert field["attributes"]["label"]


def test_hooks_run_the_tools_of_make_lint() -> None:
    lint = re.search(r"^lint:.*\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    assert lint is not None
    linters = set(re.findall(r"\$\(BIN\)/(\S+)", lint[1]))
    hooks = [hook for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks} == linters


@pytest.mark.parametrize(
    ("badge", "says"),
    [
        ("licence", f"licence: {PYPROJECT['project']['license']}"),
        ("python", f"python: {' | '.join(supported_pythons())}"),
    ],
)
def test_badges_say_what_the_project_file_says(badge: str, says: str) -> None:
    root = ElementTree.parse(ROOT / "docs" / "images" / f"badge-{badge}.svg").getroot()
    assert root.attrib["aria-label"] == says
    assert [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")] == says.split(": ")


def test_every_dependency_has_an_exact_version_in_the_constraints() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    needed = [*PYPROJECT["project"]["dependencies"], *(line for extra in extras.values() for line in extra)]
    names = {re.split(r"[\[><=;]", line)[0].lower() for line in needed} - {"roseinfer"}
    pinned = re.findall(r"^([\w.-]+)==\S+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert names <= {name.lower().replace("_", "-") for name in pinned}


def test_nothing_claims_a_published_package() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    claims = [page.name for page in pages if re.search(r"pip install (-U )?roseinfer\b", page.read_text("utf-8"))]
    assert claims == []


def test_the_list_of_targets_fits_in_80_columns() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert listed
    assert [line for line in listed if len(line) > 80 or line != line.rstrip()] == []


def test_nothing_that_a_command_writes_is_tracked() -> None:
    listed = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    tracked = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    assert tracked.stdout == ""
