"""The pre-tokenizers that a GGUF file names: how a text is split into words before its bytes are merged.

Names and rules are those of llama.cpp (`llama_vocab::impl::load` and `llm_tokenizer_bpe` in
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp). Where llama.cpp adapts an expression to its own
engine, the table has the expression of the model's tokenizer.json, which llama.cpp quotes.
"""

from typing import NamedTuple

from tokenizers import Regex, pre_tokenizers

from roseinfer.text.pretokenizer_patterns import GPT2_WORDS, GPT4O_WORDS, LLAMA3_WORDS, QWEN2_WORDS, TEKKEN_WORDS


class PreTokenizer(NamedTuple):
    """The rules of one family of byte-level vocabularies."""

    patterns: tuple[str, ...]
    """Regular expressions, applied in order. Each splits every piece into its matches and the text between them."""
    ignores_merges: bool = False
    """True: a word that is itself a token is encoded as that token, even if no merges produce it."""
    adds_bos: bool = False
    """True: a text begins with BOS unless the file says otherwise."""
    normalizes_to_nfc: bool = False
    """True: the model's tokenizer.json normalizes text to NFC, which llama.cpp leaves out."""

    def build(self) -> pre_tokenizers.PreTokenizer:
        """Return the pre-tokenizer for the `tokenizers` library."""
        splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _characters(ranges: str) -> str:
    """Return the inside of a character class, given code points and ranges of code points in hexadecimal."""
    ends = (each.split("-") for each in ranges.split())
    return "".join("-".join(rf"\x{{{end}}}" for end in pair) for pair in ends)


_HAN = "4e00-9fa5"
_KANA = "3040-309f 30a0-30ff"
_HAN_AND_HANGUL = f"[{_characters('4e00-9fa5 800-4e00 ac00-d7ff')}]+"
_HAN_AND_KANA = f"[{_characters(f'{_HAN} {_KANA}')}]+"
_CASED_LETTERS = _characters(
    "41-5a 61-7a b5 c0-d6 d8-f6 f8-1ba 1bc-1bf 1c4-293 295-2af 370-373 376 377 37b-37d 37f 386 388-38a 38c "
    "38e-3a1 3a3-3f5 3f7-481 48a-52f 531-556 10a0-10c5 13a0-13f5 13f8-13fd 1c90-1cba 1cbd-1cbf 1d00-1d2b "
    "1d6b-1d77 1d79-1d9a 1e00-1f15 1f18-1f1d 1f20-1f45 1f48-1f4d 1f50-1f57 1f59 1f5b 1f5d 1f5f-1f7d 1f80-1fb4 "
    "1fb6-1fbc 1fbe 1fc2-1fc4 1fc6-1fcc 1fd0-1fd3 1fd6-1fdb 1fe0-1fec 1ff2-1ff4 1ff6-1ffc 2102 2107 210a-2113 "
    "2115 2119-211d 2124 2126 2128 212a-212d 212f-2134 2139 213c-213f 2145-2149 214e 2183 2184 2c00-2c7b "
    "2c7e-2ce4 2ceb-2cee 2cf2 2cf3 a640-a66d a680-a69b a722-a76f a771-a787 a78b-a78e ab70-abbf fb00-fb06 "
    "fb13-fb17 ff21-ff3a ff41-ff5a 10400-1044f 104b0-104d3 104d8-104fb 10c80-10cb2 10cc0-10cf2 118a0-118df "
    "1e900-1e943"
)
"""The letters with case of the Unicode version that DeepSeek's first tokenizers were made with."""
_WIDE_PUNCTUATION = _characters("21-2f 3a-7e ff01-ff0f ff1a-ff5e 2018-201f 3000-3002")

_ASCII_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_DEEPSEEK3_WORDS = (
    _ASCII_PUNCTUATION
    + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN35_WORDS = QWEN2_WORDS.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]")
_SPLIT_AT_PUNCTUATION = rf" ?[^(\s|{_characters('2e 2c 21 3f 2026 3002 ff0c 3001 964 6d4 60c')})]+"
_JAIS2_WORDS = (
    LLAMA3_WORDS.removesuffix(r"|\s+(?!\S)|\s+")
    + "".join(rf"|\s{{{width}}}(?!\S)" for width in ("512", "256", "128", "64", "32", "16", "8", "4", "1,2"))
    + r"|\s{1}"
)

_GPT2 = PreTokenizer((GPT2_WORDS,))
_DIGIT_BY_DIGIT = PreTokenizer((r"\p{N}", GPT2_WORDS))
_LLAMA3 = PreTokenizer((LLAMA3_WORDS,), ignores_merges=True, adds_bos=True)
_LLAMA3_WITHOUT_BOS = PreTokenizer((LLAMA3_WORDS,))
_QWEN2 = PreTokenizer((QWEN2_WORDS,), normalizes_to_nfc=True)
_QWEN2_WITHOUT_NFC = PreTokenizer((QWEN2_WORDS,))
_GPT4O = PreTokenizer((GPT4O_WORDS,))
_DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", _HAN_AND_KANA, _DEEPSEEK3_WORDS))
_PUNCTUATED = PreTokenizer((_SPLIT_AT_PUNCTUATION,))
_BAILING = PreTokenizer((QWEN2_WORDS.replace(r"\s*[\r\n]+|\s+(", r"\s*[\r\n]|\s+("),))

PRE_TOKENIZERS = {
    **dict.fromkeys(("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais"), _GPT2),
    **dict.fromkeys(("trillion", "granite-docling", "exaone4"), _GPT2),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell"), _DIGIT_BY_DIGIT),
    **dict.fromkeys(("exaone", "minerva-7b", "mellum2"), _DIGIT_BY_DIGIT),
    **dict.fromkeys(
        ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _LLAMA3
    ),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe"), _LLAMA3_WITHOUT_BOS),
    **dict.fromkeys(("glm4", "glm5"), PreTokenizer((LLAMA3_WORDS,), ignores_merges=True)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    **dict.fromkeys(("kormo", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"), _QWEN2_WITHOUT_NFC),
    "qwen35": PreTokenizer((_QWEN35_WORDS,)),
    "tekken": PreTokenizer((TEKKEN_WORDS,), ignores_merges=True, adds_bos=True),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2", "minimax-m2"), _GPT4O),
    **dict.fromkeys(("tiny_aya", "cohere2moe"), PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O_WORDS))),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2_WORDS, "[0-9][0-9][0-9]")),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            rf"\s?[{_WIDE_PUNCTUATION}]+",
            r"\s+$",
            _HAN_AND_HANGUL,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN_AND_HANGUL, r"\p{N}")),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"), _DEEPSEEK3),
    **dict.fromkeys(("poro-chat", "bloom", "gpt3-finnish"), _PUNCTUATED),
    "viking": PreTokenizer((_SPLIT_AT_PUNCTUATION, r"\p{N}")),
    **dict.fromkeys(("bailingmoe", "bailingmoe2", "llada-moe"), _BAILING),
    "seed-coder": PreTokenizer((QWEN2_WORDS.replace(r"[^\s\p{L}\p{N}]+[\r\n]*", r"[^\s\p{L}\p{N}\r\n]+"),)),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}+")), ignores_merges=True),
    "jais-2": PreTokenizer((_JAIS2_WORDS,)),
    "laguna": PreTokenizer((r"[^\n]+|[\n]+", QWEN2_WORDS)),
}
"""Rules of each pre-tokenizer that a GGUF file may name in `tokenizer.ggml.pre`."""
