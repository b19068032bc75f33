"""roseinfer: an LLM inference engine that explains its own speed."""

__version__ = "0.1.0"
