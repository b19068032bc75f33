"""Random text with characters that are hard for tokenizers."""

from hypothesis import strategies as st

_HARD = [
    *[
        "👩‍👩‍👧‍👦",
        "🏳️‍🌈",
        "👍🏽",
        "🇯🇵",
        "日本語",
        "한국어",
        "e\u0301",
        "नमस्ते",
        "ไทย",
        "\u202e\u05e2\u05d1",
        "ß",
        "ﬁ",
        "Ǆ",
        "٣",
        "½",
    ],
    *["\u00a0", "\u3000", "\ufeff", "\ufffd", "\u2581", "  ", "\n\n", "\r\n", "\t", "\x00", "\U0010ffff", "Ġ", "²"],
    *["'s", "'LL", "don't", "12345", " 7", "   42", "<|", "|>", "<0x41>", "</s>", "Hello", " world", "...", "!?"],
]

texts = st.lists(
    st.one_of(
        st.sampled_from(_HARD),
        st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=6),
        st.text("abc xyz'\n019", max_size=12),
    ),
    max_size=12,
).map("".join)
"""Random Unicode text, without surrogates and unassigned code points."""
