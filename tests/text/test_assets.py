"""The tokenizer, chat template and special tokens of a model are found in every kind of source."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roseinfer.errors import ModelError
from roseinfer.text.assets import TextAssets, load_text
from roseinfer.text.gpt2_tokenizer import Gpt2Tokenizer
from roseinfer.weights.gguf_file import GgufReader
from roseinfer.weights.resolve import ModelSource, resolve

CHAT = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def folder(tmp_path: Path, transformers_demo: Any) -> Path:
    """A directory with the demo model's tokenizer, saved by transformers, and a config.json."""
    transformers_demo.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 0, "eos_token_id": 0}))
    return tmp_path


def text_of(folder: Path) -> TextAssets:
    return load_text(resolve(str(folder), "dummy", ()))


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | changes))


def test_the_demo_model_has_everything(demo: TextAssets) -> None:
    assert demo.tokenizer is not None
    assert demo.chat_template is not None
    assert (demo.bos_token_id, demo.eos_token_ids) == (1, frozenset({2}))
    assert demo.chat_template.render(CHAT).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_an_open_readers_metadata_is_used_in_place_of_the_file() -> None:
    source = resolve("smollm2-135m", "auto", ())
    assert source.path is not None
    metadata = GgufReader(source.path).metadata
    nowhere = ModelSource(name="x", format="gguf", path=Path("nowhere.gguf"))
    assert load_text(nowhere, metadata).eos_token_ids == {2}


def test_gpt2s_shape_has_gpt2s_tokenizer_and_other_shapes_have_none() -> None:
    gpt2 = load_text(resolve("gpt2", "dummy", ("gpt2", "llama-3-8b")))
    assert isinstance(gpt2.tokenizer, Gpt2Tokenizer)
    assert (gpt2.chat_template, gpt2.eos_token_ids) == (None, frozenset({50256}))
    assert load_text(resolve("llama-3-8b", "dummy", ("gpt2", "llama-3-8b"))) == TextAssets()


def test_a_directory_saved_by_transformers_encodes_and_renders_alike(folder: Path, transformers_demo: Any) -> None:
    text = text_of(folder)
    assert text.tokenizer is not None
    assert text.chat_template is not None
    prompt = text.chat_template.render(CHAT)
    assert prompt == transformers_demo.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert text.tokenizer.encode(prompt, allow_special=True) == transformers_demo.encode(prompt)
    assert text.bos_token_id == text.tokenizer.bos_token_id == 1


def test_end_tokens_are_the_union_of_what_all_files_say(folder: Path) -> None:
    assert text_of(folder).eos_token_ids == {0, 2}  # config.json's, and tokenizer_config.json's <|im_end|>
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
    text = text_of(folder)
    assert text.eos_token_ids == {0, 2, 5, 7}
    assert text.tokenizer is not None
    assert text.tokenizer.eos_token_ids == text.eos_token_ids


def test_special_tokens_may_be_objects_or_absent(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", bos_token={"content": "<repo_name>"}, eos_token=None)
    text = text_of(folder)
    assert (text.bos_token_id, text.eos_token_ids) == (3, frozenset({0}))


def test_the_template_file_wins_over_the_config_and_named_templates_work(folder: Path) -> None:
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "from config"}]
    edit(folder / "tokenizer_config.json", chat_template=templates)

    def rendered() -> str | None:
        template = text_of(folder).chat_template
        return template.render(CHAT) if template is not None else None

    (folder / "chat_template.jinja").write_text("from file")
    assert rendered() == "from file"
    (folder / "chat_template.jinja").unlink()
    assert rendered() == "from config"
    edit(folder / "tokenizer_config.json", chat_template=None)
    assert rendered() is None


def test_a_directory_without_a_tokenizer_has_ids_only(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert text_of(folder) == TextAssets(bos_token_id=0, eos_token_ids=frozenset({0}))


def test_a_broken_file_is_named(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        text_of(folder)


def test_nothing_imports_gguf_tokenizers_or_tiktoken_before_it_is_needed() -> None:
    program = (
        "import sys, roseinfer.text.assets, roseinfer.weights.weight_reader, roseinfer.text.detokenizer\n"
        "print(sorted({'gguf', 'tokenizers', 'tiktoken', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
