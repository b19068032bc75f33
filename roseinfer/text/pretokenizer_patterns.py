"""Regular expressions that split a text into words before bytes are merged, one per family of vocabularies."""

GPT2_WORDS = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
"""GPT-2: contractions; words, numbers and punctuation, each with the space before it; white space."""

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3: numbers have at most three digits, and line breaks belong to the punctuation before them."""

QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
"""Qwen2: as Llama 3, but each digit is a word."""

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_REST = r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cased(ending: str) -> str:
    return f"{_BEFORE}{_UPPER}*{_LOWER}+{ending}|{_BEFORE}{_UPPER}+{_LOWER}*{ending}{_REST}"


TEKKEN_WORDS = _cased("").replace(r"\p{N}{1,3}", r"\p{N}")
"""Mistral's Tekken: words also end where lower case turns to upper case, and each digit is a word."""

GPT4O_WORDS = _cased("(?i:'s|'t|'re|'ve|'m|'ll|'d)?")
"""GPT-4o and Llama 4: as Tekken, with numbers of up to three digits and contractions in the word before them."""

CL100K_WORDS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
"""GPT-4 (cl100k), as in tiktoken's openai_public.py: Llama 3 took it over, but for the line breaks of white space."""
