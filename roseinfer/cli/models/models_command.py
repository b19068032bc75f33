"""`roseinfer models`: list the architectures, formats, quantizations and tokenizers that this version runs."""

from roseinfer.cli import console
from roseinfer.cli.options import Debug, Json

EXAMPLES = (
    ("List what runs", "roseinfer models"),
    ("The same as one JSON document", "roseinfer models --json"),
)


def models(*, json: Json = False, debug: Debug = False) -> None:
    """List the architectures, formats, quantizations and tokenizers that run.

    The lists come from the registries of this version, so that they are what --model accepts. Nothing is downloaded.
    """
    with console.progress("Importing torch", ticks=True):
        from roseinfer.cli.models.catalogue import catalogue

    found = catalogue()
    if json:
        console.print_json(found)
        return
    from roseinfer.cli.models.models_page import models_page

    console.stdout.print(models_page(found, console.width()))
