"""Make the pictures of README.md from real output: a terminal recording as SVG, and the HTML report as PNG.

    python docs/pictures.py               # all of them; the report needs Chromium and Pillow
    python docs/pictures.py --only-svg    # the terminal recording alone, which needs neither

Both show the recorded H200 trace of the tests, once for light and once for dark mode.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.text import Text
from terminal_svg import THEMES, terminal_svg

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
TRACE = "tests/trace/data/origin_gather_decode_h200.json.gz"
COMMAND = f"roseinfer summarize {TRACE}"
COLUMNS = 88
LAST_LINE = " wall time "
"""Start of the line that ends the terminal recording: the last row of the budget."""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PAGE_WIDTH, _SCALE = 1000, 1.5
_TALLER_THAN_THE_PAGE = 3000
_HIDDEN = (("<h2>Time budget", "<h2>GPU 0"), ("<!-- tables -->", "</body>"))
"""Parts of the report that the picture leaves out, from one text to another: its tables."""


def main() -> int:
    """Write the pictures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-svg", action="store_true", help="make only the terminal recording")
    parser.add_argument("--browser", help=f"browser for the report [default: the first of {', '.join(_BROWSERS)}]")
    arguments = parser.parse_args()
    IMAGES.mkdir(exist_ok=True)
    printed = terminal_output()
    for theme in THEMES:
        _write(IMAGES / f"summarize-{theme}.svg", terminal_svg(COMMAND, printed, COLUMNS, theme).encode())
    if arguments.only_svg:
        return 0
    browser = arguments.browser or next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        print("no Chromium found: install it, name one with --browser, or give --only-svg", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="roseinfer-pictures-") as folder:
        page = _report(Path(folder))
        for theme in THEMES:
            _write(IMAGES / f"report-{theme}.png", _screenshot(browser, page, theme, described(printed)))
    return 0


def terminal_output() -> str:
    """Return what the command prints on a terminal, colours included, as far as the end of the budget."""
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)}
    environment.pop("NO_COLOR", None)
    done = _run(["summarize", TRACE], environment)
    lines = done.splitlines()
    end = next(index for index, line in enumerate(lines) if Text.from_ansi(line).plain.startswith(LAST_LINE))
    return "\n".join(lines[: end + 1])


def described(printed: str) -> str:
    """Return what the report's picture shows in words: everything up to the tables, without colours."""
    return Text.from_ansi(printed).plain.split("\n\n")[0]


def _report(folder: Path) -> Path:
    """Write the HTML report without its later tables into `folder`; return its path."""
    page = folder / "report.html"
    _run(["summarize", TRACE, "--html", page, "--quiet"], dict(os.environ))
    html = page.read_text(encoding="utf-8")
    for first, end in _HIDDEN:
        html = html[: html.index(first)] + html[html.index(end) :]
    page.write_text(html, encoding="utf-8")
    return page


def _run(arguments: list[Any], environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "roseinfer", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def _screenshot(browser: str, page: Path, theme: str, description: str) -> bytes:
    """Return a PNG file of the page, without the empty space below its content, in at most 256 colours."""
    from PIL import Image, ImageChops
    from PIL.PngImagePlugin import PngInfo

    shot = page.with_name(f"{theme}.png")
    scheme = {"light": 1, "dark": 0}[theme]
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={page.parent / 'browser'}",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--force-device-scale-factor={_SCALE}",
            f"--window-size={_PAGE_WIDTH},{_TALLER_THAN_THE_PAGE}",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with Image.open(shot) as opened:
        whole = opened.convert("RGB")
    ground = Image.new("RGB", whole.size, whole.getpixel((0, 0)))
    box = ImageChops.difference(whole, ground).getbbox()
    assert box is not None
    cropped = whole.crop((0, 0, whole.width, min(whole.height, box[3] + box[1])))
    words = PngInfo()
    words.add_itxt("Description", description)
    cropped.quantize(256, dither=Image.Dither.NONE).save(shot, optimize=True, pnginfo=words)
    return shot.read_bytes()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    print(f"{path.relative_to(ROOT)}: {len(content) / 1024:.0f} KiB")


if __name__ == "__main__":
    sys.exit(main())
