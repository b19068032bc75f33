"""Convert tiny models to GGUF by llama.cpp's own converter, and compare their logits with transformers.

    python benchmarks/gguf_converter.py [--folder FOLDER] [--only NAME ...]

pip downloads llama-cpp-python's source distribution from PyPI, which has the converter. The models are those of
tests/architecture_models.py, in float32. They have no tokenizers, so the converter's vocabulary is replaced by one of
made-up tokens. Prints the largest difference of any logit, or the reason why a model was not compared: the converter
refuses it, or roseinfer does. Exits with 1 if a difference exceeds 1e-4.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PACKAGE = "llama-cpp-python==0.3.36"
_BOUND = 1e-4
_PARTS = ("/vendor/llama.cpp/conversion/", "/vendor/llama.cpp/gguf-py/gguf/")


def fetch(folder: Path) -> Path:
    """Download the package unless the folder has it, extract the converter, and return its folder."""
    converter = folder / "llama.cpp"
    if converter.is_dir():
        return converter
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("llama_cpp_python-*.tar.gz")):
        print(f"downloading {PACKAGE}", file=sys.stderr)
        call = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python"]
        subprocess.run([*call, "--dest", str(folder), PACKAGE], check=True)
    (archive,) = folder.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(archive) as source:
        for member in source:
            if member.isfile() and any(part in member.name for part in _PARTS):
                target = converter / member.name.partition("/vendor/llama.cpp/")[2]
                target.parent.mkdir(parents=True, exist_ok=True)
                opened = source.extractfile(member)
                assert opened is not None
                target.write_bytes(opened.read())
    return converter


def convert(converter: Path, model: Path, path: Path) -> None:
    """Convert a Hugging Face directory in this process, which must not have imported another gguf package."""
    sys.path[:0] = [str(converter), str(converter / "gguf-py")]
    import conversion
    from conversion.base import ModelBase, ModelType, gguf

    fields = ModelBase.load_hparams(model, False)
    kind = conversion.get_model_class(conversion.get_model_architecture(fields, ModelType.TEXT))

    def made_up(self: Any) -> None:
        self.gguf_writer.add_tokenizer_model("none")
        self.gguf_writer.add_token_list([f"token {index}" for index in range(self.hparams["vocab_size"])])

    kind.set_vocab = made_up
    kind(model, gguf.LlamaFileType.ALL_F32, path).write()


def difference(name: str, converter: Path) -> float:
    """Return the largest difference between the logits of the converted model and of transformers."""
    from architecture_models import engine_logits, random_model, random_prompt, transformers_logits

    # llama.cpp scales Gemma's scores by head_dim, which is what the public models have.
    model = random_model(name, **({"query_pre_attn_scalar": 8} if name.startswith(("gemma2", "gemma3")) else {}))
    with tempfile.TemporaryDirectory() as folder:
        saved, path = Path(folder) / "model", Path(folder) / "model.gguf"
        model.save_pretrained(saved)
        vocabulary = {f"token {index}": index for index in range(model.config.vocab_size)}
        (saved / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
        call = [sys.executable, __file__, "--convert", str(converter), str(saved), str(path)]
        child = subprocess.run(call, capture_output=True, text=True, check=False)
        if child.returncode:
            raise RuntimeError(f"the converter: {child.stderr.strip().splitlines()[-1]}")
        worst = 0.0
        for token_ids, logits in engine_logits(path, [random_prompt(40), random_prompt(5)], 6, max_batch_tokens=23):
            worst = max(worst, float((logits - transformers_logits(model, token_ids)).abs().max()))
    return worst


def main() -> int:
    """Compare all models; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder for the download [default: a temporary one]")
    parser.add_argument("--only", nargs="+", help="models of tests/architecture_models.py [default: all]")
    parser.add_argument("--convert", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.convert:
        convert(*arguments.convert)
        return 0
    from architecture_models import MODELS

    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        converter = fetch(arguments.folder or Path(temporary))
        for name in arguments.only or MODELS:
            try:
                found = difference(name, converter)
            except Exception as error:  # the point of the table is to name every reason
                print(f"{name:45} not compared: {error}", flush=True)
                continue
            worst = max(worst, found)
            print(f"{name:45} {found:.1e}", flush=True)
    print(f"worst: {worst:.1e}")
    return int(worst >= _BOUND)


if __name__ == "__main__":
    sys.exit(main())
