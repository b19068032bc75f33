"""The HTML page in a browser: tables sort, drawings zoom, and both return to what they were."""

import json
import re
import shutil
import subprocess
from html import unescape
from typing import Any

import pytest
from traces import TUTORIAL

from roseinfer.cli.rendering.html_page import to_html
from roseinfer.trace import summarize_trace

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_BROWSER = next((path for name in _NAMES if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(_BROWSER is None, reason="there is no Chromium")

_ACTIONS = """
const found = {};
const table = (title) => [...document.querySelectorAll("h2")].find((one) => one.textContent.startsWith(title))
  .nextElementSibling.querySelector("table");
const click = (title, column) => {
  const head = [...table(title).tHead.rows[0].cells].find((one) => one.textContent === column);
  head.querySelector("button").click();
  return head.getAttribute("aria-sort");
};
const rows = (title) => [...table(title).tBodies[0].rows].map((row) => [
  Number(row.cells[0].style.getPropertyValue("--depth")), ...[...row.cells].map((cell) => cell.textContent)]);
for (const [title, column] of [["Spans", "Wall ms"], ["Top operators", "Self ms"], ["Top operators", "Name"]]) {
  found[`${title}, ${column}`] = [[null, rows(title)]];
  for (let times = 0; times < 3; times++)
    found[`${title}, ${column}`].push([click(title, column), rows(title)]);
}
const svg = document.querySelector("svg.zoomable");
const frame = svg.parentElement;
const press = (key) => frame.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
const view = () => ({
  boxes: [...svg.querySelectorAll("rect")].map((one) => [one.style.display, one.getAttribute("x") * 1,
    one.getAttribute("width") * 1, one.dataset.name ?? ""]),
  labels: [...svg.querySelectorAll("rect + text")].map((one) => one.textContent),
  ticks: [...svg.querySelectorAll("text.tick")].map((one) => one.textContent),
  says: frame.previousElementSibling.querySelector("output").textContent,
});
found.whole = view();
press("+");
found.closer = view();
press("ArrowRight");
found.later = view();
press("0");
found.again = view();
const target = [...svg.querySelectorAll("rect[data-name]")].find((one) => one.getAttribute("width") * 1 < 20);
found.target = [...svg.querySelectorAll("rect")].indexOf(target);
target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
found.clicked = view();
document.body.append(Object.assign(document.createElement("pre"), { textContent: JSON.stringify(found) }));
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of the actions above on the page of a recorded trace."""
    folder = tmp_path_factory.mktemp("page")
    page = folder / "page.html"
    page.write_text(to_html(summarize_trace(TUTORIAL)).replace("</body>", f"<script>{_ACTIONS}</script></body>"))
    call = [_BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'browser'}"]
    done = subprocess.run(
        [*map(str, call), "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    results = re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert results, done.stdout[-500:]
    return dict(json.loads(unescape(results.group(1))))


def parents(rows: list[list[Any]]) -> dict[str, list[str]]:
    """Return the names of the rows below each row, in order."""
    inner: dict[str, list[str]] = {}
    path: list[str] = []
    for depth, name, *_ in rows:
        path[depth:] = [name]
        inner.setdefault(path[depth - 1] if depth else "", []).append(name)
    return inner


def test_a_column_sorts_up_down_and_back(found: dict[str, Any]) -> None:
    (_, before), (first, largest), (second, smallest), (third, after) = found["Top operators, Self ms"]
    assert (first, second, third) == ("descending", "ascending", None)
    assert after == before
    assert sorted(map(str, largest)) == sorted(map(str, before))
    numbers = [float(row[4].replace(",", "")) for row in largest if not row[1].endswith(" more")]
    assert numbers == sorted(numbers, reverse=True) != [float(row[4].replace(",", "")) for row in before]
    for order in (largest, smallest):
        assert [row[1].endswith(" more") for row in order[-2:]] == [True, True], "rows for what was left out stay last"
    assert found["Top operators, Name"][1][0] == "ascending", "names begin with the first of the alphabet"


def test_inner_rows_stay_below_theirs(found: dict[str, Any]) -> None:
    (_, before), (_, largest), (_, smallest), (_, after) = found["Spans, Wall ms"]
    assert after == before
    for order in (largest, smallest):
        assert {row: set(inner) for row, inner in parents(order).items()} == {
            row: set(inner) for row, inner in parents(before).items()
        }
    wall = {row[1]: float(row[3].replace(",", "")) for row in before}
    assert any(len(inner) > 1 for inner in parents(before).values())
    for inner in parents(smallest).values():
        assert inner == sorted(inner, key=wall.__getitem__)


def test_keys_zoom_move_and_show_the_whole_again(found: dict[str, Any]) -> None:
    whole, closer, later = found["whole"], found["closer"], found["later"]
    assert found["again"] == whole
    assert whole["says"] == ""
    for (_, x, width, name), (hidden, new_x, new_width, same) in zip(whole["boxes"], closer["boxes"], strict=True):
        left, right = max(0.0, 2 * (x - 250)), min(1000.0, 2 * (x + width - 250))
        assert name == same
        assert (hidden == "none") == (right <= left)
        if not hidden:
            assert (new_x, new_width) == pytest.approx((left, right - left), abs=1e-6)
    middle = [float(tick.removesuffix(" ms")) for tick in whole["ticks"]]
    shown = [float(tick.removesuffix(" ms")) for tick in closer["ticks"]]
    assert (shown[0], shown[-1]) == pytest.approx((middle[-1] / 4, middle[-1] * 3 / 4), rel=0.02)
    assert float(later["ticks"][0].removesuffix(" ms")) > shown[0]
    assert len(list(filter(None, closer["labels"]))) >= 1


def test_a_click_shows_one_box_as_wide_as_the_drawing_with_its_whole_name(found: dict[str, Any]) -> None:
    _, x, width, name = found["clicked"]["boxes"][found["target"]]
    assert (x, width) == pytest.approx((0, 1000))
    assert name in found["clicked"]["labels"]
    assert name not in found["whole"]["labels"]
