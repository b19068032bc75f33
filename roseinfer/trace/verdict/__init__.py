"""Judge the findings: one headline, evidence, and advice."""
