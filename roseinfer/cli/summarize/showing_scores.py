"""`roseinfer summarize --scores DIR`: how good each kind of advice was, over many runs."""

from pathlib import Path

from roseinfer.advice.prediction_scores import score_card
from roseinfer.advice.predictions import predictions_below
from roseinfer.cli import console


def show_scores(folder: Path, *, as_json: bool) -> None:
    """Print the scores of all predictions in a folder of run directories."""
    card = score_card(predictions_below(folder))
    if as_json:
        console.print_json(card)
        return
    from roseinfer.cli.rendering.advice_sheets import fault_line, score_sheets
    from roseinfer.cli.rendering.terminal import sheet_table
    from roseinfer.cli.rendering.text_wrapping import wrapped

    out = console.stdout
    if not card.total.tried:
        console.note("[scores] no advice was measured: `--budget` gives `--try` more time")
    for number, table in enumerate(score_sheets(card)):
        if number:
            out.print()
        out.print(sheet_table(table, out.width), soft_wrap=True)
    for fault in card.faults:
        for part in wrapped(fault_line(fault), out.width):
            out.print(part, markup=False, highlight=False, soft_wrap=True)
