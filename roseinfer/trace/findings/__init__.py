"""Turn facts into findings: the rows of a summary, largest first."""
