"""Compare tokenizers and chat templates with published test vectors and with the programs that define them.

    python benchmarks/tokenizer_vectors.py [--folder FOLDER] [--reduce FILE]

pip downloads four packages from PyPI, of which only data files are read:

- llama-cpp-python's source distribution has llama.cpp's vocabularies with texts and expected ids, and chat templates of
  published models. Each text must give the expected ids, and each template the text that transformers renders.
- mistral-common has SentencePiece models of Mistral, which are compared with the sentencepiece package.
- llama-models and dashscope have the rank files of Llama 3, Llama 4 and Qwen.

`--reduce` writes vocabularies with only the merges and pieces that occur in these texts:
tests/text/test_llama_cpp_vectors.py reads them.
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from roseinfer.errors import ModelError
from roseinfer.text.chat_template import ChatTemplate
from roseinfer.text.gguf_vocabulary import tokenizer_from_gguf
from roseinfer.text.huggingface import HuggingFaceTokenizer
from roseinfer.text.rank_file import tokenizer_from_ranks
from roseinfer.text.sentencepiece_file import read_sentencepiece
from roseinfer.text.sentencepiece_vocabulary import build_tokenizer
from roseinfer.text.token_bytes import byte_alphabet
from roseinfer.weights.gguf_header import read_gguf_header

PACKAGES = {
    "llama-cpp-python==0.3.36": "/vendor/llama.cpp/models/",
    "mistral-common==1.13.1": "/data/",
    "llama-models==0.3.0": "/llama",
    "dashscope==2.0.2": "/resources/",
}
"""Packages, with a part of the paths of the files to extract."""

_SEPARATOR = "\n__ggml_vocab_test__\n"
_ODD = [
    " ",
    "  ",
    "   ",
    "\n",
    "\t",
    "\r\n",
    "Hello",
    " world",
    "é",
    "日本",
    "👩‍👩‍👧",
    ".",
    "123",
    "\u2581",
    "<s>",
    "[INST]",
]
_MESSAGES = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there!"},
    {"role": "user", "content": "What is 2 + 2?"},
]
_RANKED_TEXT = "Hello, y'all! How are you"
_RANKED = {
    "llama3/tokenizer.model": ("Llama 3", None),
    "llama4/tokenizer.model": ("Llama 4", [200000, 19873, 24, 386, 87799, 13, 2403, 583, 650]),
    "resources/qwen.tiktoken": ("Qwen", None),
}


def main() -> int:
    """Print one line per vocabulary and a count of templates; return 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="folder for the packages [default: a temporary one]")
    parser.add_argument("--reduce", type=Path, metavar="FILE", help="write reduced vocabularies for the tests")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        fetch(folder)
        if arguments.reduce is not None:
            reduce(folder, arguments.reduce)
            return 0
        results = [*vocabularies(folder), *sentencepiece_models(folder), *rank_files(folder), templates(folder)]
    for name, right, total, note in results:
        print(f"{name:34} {f'{right} of {total}':>12}  {note}".rstrip())
    return int(any(right < total for _, right, total, _ in results))


Result = tuple[str, int, int, str]
"""(name, number of right cases, number of cases, remark)"""


def fetch(folder: Path) -> None:
    """Download the packages that the folder lacks, and extract their data."""
    folder.mkdir(parents=True, exist_ok=True)
    for package, part in PACKAGES.items():
        name = package.partition("==")[0]
        if (folder / name).is_dir():
            continue
        print(f"downloading {package}", file=sys.stderr)
        source = ["--no-binary", name] if name == "llama-cpp-python" else []
        call = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *source, "--dest", str(folder), package]
        subprocess.run(call, check=True)
        (archive,) = folder.glob(f"{name.replace('-', '_')}-*")
        for path, content in members(archive):
            if part in path:
                target = folder / name / path.partition("/")[2]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
        archive.unlink()


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of the files in a wheel or a source distribution."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                if not name.endswith("/"):
                    yield name, wheel.read(name)
        return
    with tarfile.open(archive) as source:
        for member in source:
            if member.isfile() and (file := source.extractfile(member)) is not None:
                yield member.name, file.read()


def cases(folder: Path) -> Iterator[tuple[str, dict[str, Any], list[str], list[list[int]]]]:
    """Yield (name, GGUF metadata, texts, expected ids) of llama.cpp's vocabularies."""
    for path in sorted((folder / "llama-cpp-python").rglob("ggml-vocab-*.gguf")):
        inputs, outputs = path.with_suffix(".gguf.inp"), path.with_suffix(".gguf.out")
        if inputs.is_file():
            texts = inputs.read_text(encoding="utf-8").split(_SEPARATOR)
            ids = [[int(each) for each in line.split()] for line in outputs.read_text().splitlines()]
            name = path.name.removeprefix("ggml-vocab-").removesuffix(".gguf")
            yield name, read_gguf_header(path).metadata, texts, ids


def vocabularies(folder: Path) -> Iterator[Result]:
    """Compare llama.cpp's vocabularies. Their vectors have no BOS or EOS."""
    for name, metadata, texts, expected in cases(folder):
        try:
            tokenizer = without_bos(metadata)
        except ModelError as error:
            yield name, 0, 0, str(error).partition(":")[0]
            continue
        right = sum(tokenizer.encode(text) == ids for text, ids in zip(texts, expected, strict=False))
        yield name, right, len(expected), ""


def without_bos(metadata: dict[str, Any]) -> HuggingFaceTokenizer:
    """Return the tokenizer of a GGUF file, which adds no BOS and no EOS."""
    added = {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": False}
    tokenizer = tokenizer_from_gguf({**metadata, **added})
    assert tokenizer is not None
    return tokenizer


def sentencepiece_models(folder: Path) -> Iterator[Result]:
    """Compare Mistral's models with the sentencepiece package on texts with odd spaces."""
    import sentencepiece

    draw = random.Random(0)
    texts = ["".join(draw.choices(_ODD, k=draw.randint(0, 12))) for _ in range(200)]
    for path in sorted((folder / "mistral-common").rglob("*.model.v*")):
        ours = HuggingFaceTokenizer(build_tokenizer(read_sentencepiece(path).vocabulary))
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
        right = sum(ours.encode(text) == theirs.encode(text) for text in texts)
        yield path.name[-34:], right, len(texts), "texts with odd spaces"


def rank_files(folder: Path) -> Iterator[Result]:
    """Read the published rank files, which are known by their checksums."""
    for path in sorted(path for name in ("llama-models", "dashscope") for path in (folder / name).rglob("*")):
        known = _RANKED.get("/".join(path.parts[-2:]))
        if known is not None:
            name, expected = known
            ids = tokenizer_from_ranks(path).encode(_RANKED_TEXT)
            yield f"tiktoken: {name}", int(expected is None or ids == expected), 1, "known by its checksum"


def templates(folder: Path) -> Result:
    """Render each chat template as transformers does. Templates that fail must fail in both."""
    from transformers.utils.chat_template_utils import render_jinja_template

    paths = sorted((folder / "llama-cpp-python").rglob("templates/*.jinja"))
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    different = []
    for path in paths:
        source = path.read_text(encoding="utf-8")
        try:
            rendered, _ = render_jinja_template([_MESSAGES], chat_template=source, add_generation_prompt=True, **tokens)
            expected = rendered[0]
        except Exception:  # whatever a template raises
            expected = None
        try:
            found: str | None = ChatTemplate(source, **tokens).render(_MESSAGES)
        except ModelError:
            found = None
        if found != expected:
            different.append(path.stem)
    return "chat templates", len(paths) - len(different), len(paths), " ".join(different)


def reduce(folder: Path, path: Path) -> None:
    """Write the byte-level and SentencePiece vocabularies with the tokens and merges that the texts need."""
    reduced: dict[str, Any] = {}
    for name, metadata, texts, expected in cases(folder):
        try:
            without_bos(metadata)
        except ModelError:
            continue
        tokens: list[str] = metadata["tokenizer.ggml.tokens"]
        if metadata["tokenizer.ggml.model"] == "llama":
            reduced[name] = reduced_pieces(metadata, texts)
        else:
            reduced[name] = {"pre": metadata["tokenizer.ggml.pre"], **reduced_merges(metadata, texts)}
        reduced[name]["expected"] = [[tokens[token_id] for token_id in ids] for ids in expected]
        reduced[name]["texts"] = texts[: len(expected)]
    content = json.dumps(reduced, ensure_ascii=False, indent=None, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(content, mtime=0))
    print(f"{path}: {len(content):,} bytes, {path.stat().st_size:,} compressed")


def reduced_merges(metadata: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return the merges whose results occur in the texts, in their order, and the user-defined tokens that occur.

    They include the merges that a wrong division into words would use.
    """
    char_of = {byte: char for char, byte in byte_alphabet().items()}
    whole = "\n".join("".join(char_of[byte] for byte in text.encode()) for text in texts)
    lines = [line for line in metadata["tokenizer.ggml.merges"] if line.replace(" ", "") in whole]
    defined = [
        token
        for token, kind in zip(metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"], strict=True)
        if kind == 4 and any(token in text for text in texts)
    ]
    return {"merges": lines, "defined": defined}


def reduced_pieces(metadata: dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return the pieces that occur in the texts, with their scores and types, and all control and byte pieces."""
    whole = "\u2581" + "\u2581".join(text.replace(" ", "\u2581") for text in texts)
    rows = zip(
        metadata["tokenizer.ggml.tokens"],
        metadata["tokenizer.ggml.scores"],
        metadata["tokenizer.ggml.token_type"],
        strict=True,
    )
    kept = [(token, score, kind) for token, score, kind in rows if kind != 1 or token in whole]
    return {"pieces": [list(row) for row in kept]}


if __name__ == "__main__":
    sys.exit(main())
