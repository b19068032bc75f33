"""The catalogue of `roseinfer models` as text."""

from collections.abc import Iterable, Sequence

from rich.text import Text

from roseinfer.cli.models.catalogue import Catalogue
from roseinfer.cli.rendering.text_table import Cell, text_table
from roseinfer.cli.rendering.text_wrapping import wrapped


def models_page(found: Catalogue, width: int) -> Text:
    """Return the tables of a catalogue, at most `width` columns wide."""
    yes = {True: "yes", False: ""}
    parts = [
        _table(
            "Architectures, by their names in each format",
            ("config.json", "GGUF", "trainer's .pt"),
            ((each.model_type, each.gguf or "", yes[each.trainer]) for each in found.architectures),
            width,
        ),
        _table(
            "Quantized weights of GGUF files, as they are in memory",
            ("type", "CPU", "GPU"),
            ((each.type, each.cpu, each.gpu) for each in found.quantizations),
            width,
        ),
        _table(
            "Settings, and where they run",
            ("option", "CPU", "GPU"),
            ((each.setting, yes[each.cpu], yes[each.gpu]) for each in found.settings),
            width,
        ),
        _list("Tokenizers of GGUF files", found.gguf_tokenizers, width),
        _list("Pre-tokenizers of GGUF files", found.gguf_pre_tokenizers, width),
        _list("Tokenizer classes of a vocab.json, or else model types", found.vocab_json_classes, width),
        _list("Tiktoken files", found.tiktoken_files, width),
        _list("Built-in shapes for --load-format dummy", found.shapes, width),
    ]
    return Text("\n\n").join(parts)


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> Text:
    cells = [[Cell(text) for text in row] for row in rows]
    return text_table(title, columns, [True] * len(columns), cells, width)


def _list(title: str, names: Iterable[str], width: int) -> Text:
    text = Text(no_wrap=True)
    text.append("\n".join(wrapped(title, width)), "bold")
    for line in wrapped(", ".join(names), width - 1):
        text.append(f"\n {line}")
    return text
