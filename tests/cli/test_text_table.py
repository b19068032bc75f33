"""Tables of text fit their width, align their columns and cut cells only where there is no room."""

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from roseinfer.cli.rendering.text_table import Cell, text_table

WORDS = st.text(st.sampled_from("abc déf漢字€1,.%"), max_size=12).map(str.strip)


def lines(title: str, columns: list[str], is_left: list[bool], rows: list[list[str]], width: int) -> list[str]:
    out = io.StringIO()
    cells = [[Cell(text) for text in row] for row in rows]
    Console(width=width, file=out).print(text_table(title, columns, is_left, cells, width))
    return out.getvalue().splitlines()


def test_numbers_are_right_aligned_and_names_left() -> None:
    shown = lines("Times", ["Name", "Ms"], [True, False], [["attention", "12.50"], ["sample", "3.1"], ["", ""]], 40)
    assert shown == [
        "Times",
        " Name          Ms",
        " ────────────────",
        " attention  12.50",
        " sample       3.1",
        "",
    ]


def test_the_longest_columns_are_cut_first() -> None:
    shown = lines("T", ["Name", "Ms"], [True, False], [["a_very_long_name_of_a_kernel", "12.50"]], 20)
    assert shown[3] == " a_very_long…  12.50"


@given(
    data=st.data(),
    size=st.integers(1, 6),
    width=st.integers(30, 90),
)
def test_every_line_fits_and_no_cell_is_cut_without_need(data: st.DataObject, size: int, width: int) -> None:
    columns = data.draw(st.lists(WORDS, min_size=size, max_size=size))
    is_left = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    rows = data.draw(st.lists(st.lists(WORDS, min_size=size, max_size=size), max_size=4))
    shown = lines("t", columns, is_left, rows, width)
    assert len(shown) == 3 + len(rows)
    assert all(cell_len(line) <= width and line == line.rstrip() for line in shown)
    needed = sum(max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)) + 2 * (size - 1) + 1
    if needed <= width:
        for line, row in zip(shown[3:], rows, strict=True):
            assert all(cell in line for cell in row)
        assert "…" not in "".join(shown)
