"""Judge a trace by its findings: one headline, evidence, and advice."""
