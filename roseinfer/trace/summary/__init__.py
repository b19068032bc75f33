"""The structs of a summary: `summarize --json` prints them, every rendering reads them."""
