"""Structs of a summary: what `summarize --json` prints and every rendering reads."""
