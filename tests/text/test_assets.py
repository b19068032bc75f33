"""The tokenizer, chat template and special tokens of a model are found in every kind of source."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
from tiny import edit_json

from roseinfer.config import SamplingParams
from roseinfer.errors import ModelError
from roseinfer.text.assets import TextAssets, load_text
from roseinfer.text.generation_config import recommended_sampling
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


def test_the_demo_model_has_everything(demo: TextAssets) -> None:
    assert demo.tokenizer is not None
    assert demo.chat_template is not None
    # <|im_end|>, which the file names, and <|endoftext|> and <reponame>, which llama.cpp knows by name.
    assert (demo.bos_token_id, demo.eos_token_ids) == (1, frozenset({0, 2, 4}))
    assert demo.chat_template.render(CHAT).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_an_open_readers_metadata_is_used_in_place_of_the_file() -> None:
    source = resolve("smollm2-135m", "auto", ())
    assert source.path is not None
    metadata = GgufReader(source.path).metadata
    nowhere = ModelSource(name="x", format="gguf", path=Path("nowhere.gguf"))
    assert 2 in load_text(nowhere, metadata).eos_token_ids


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
    edit_json(folder / "tokenizer_config.json", bos_token={"content": "<repo_name>"}, eos_token=None)
    text = text_of(folder)
    assert (text.bos_token_id, text.eos_token_ids) == (3, frozenset({0}))


def test_the_template_file_wins_over_the_config_and_named_templates_work(folder: Path) -> None:
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "from config"}]
    edit_json(folder / "tokenizer_config.json", chat_template=templates)

    def rendered() -> str | None:
        template = text_of(folder).chat_template
        return template.render(CHAT) if template is not None else None

    (folder / "chat_template.jinja").write_text("from file")
    assert rendered() == "from file"
    (folder / "chat_template.jinja").unlink()
    assert rendered() == "from config"
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    assert rendered() is None


def test_named_templates_come_from_every_file(folder: Path) -> None:
    def rendered(**options: Any) -> str:
        template = text_of(folder).chat_template
        assert template is not None
        return template.render(CHAT, **options)

    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "from a processor"}))
    assert rendered() == "from a processor"
    edit_json(folder / "tokenizer_config.json", chat_template=[{"name": "chat", "template": "first of a list"}])
    (folder / "chat_template.json").unlink()
    assert rendered() == "first of a list"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert rendered() == "first of a list"
    assert rendered(tools=[{"type": "function"}]) == "tools"


def test_a_broken_template_does_not_prevent_prompts_without_it(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% if %}")
    text = text_of(folder)
    assert text.tokenizer is not None
    assert text.chat_template is not None
    with pytest.raises(ModelError, match="give --raw"):
        text.chat_template.render(CHAT)


def test_a_byte_order_mark_is_no_error(folder: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert text_of(folder).eos_token_ids == {0, 2}


class TestRecommendedSampling:
    def recommended(self, tmp_path: Path, **content: Any) -> SamplingParams:
        (tmp_path / "config.json").write_text("{}")
        (tmp_path / "generation_config.json").write_text(json.dumps(content))
        return recommended_sampling(resolve(str(tmp_path), "dummy", ()))

    def test_a_file_that_samples_gives_its_settings(self, tmp_path: Path) -> None:
        settings = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}
        assert self.recommended(tmp_path, **settings, eos_token_id=[1, 2], max_length=20) == SamplingParams(
            temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05
        )
        assert self.recommended(tmp_path, do_sample=True, min_p=0.1) == SamplingParams(temperature=1.0, min_p=0.1)

    def test_a_file_that_does_not_sample_is_greedy(self, tmp_path: Path) -> None:
        assert self.recommended(tmp_path, temperature=0.6, top_p=0.9) == SamplingParams()
        assert self.recommended(tmp_path, do_sample=False, repetition_penalty=1.1).repetition_penalty == 1.1
        assert self.recommended(tmp_path, do_sample=True, temperature=None, top_k=None).temperature == 1.0

    def test_a_wrong_value_is_named_with_its_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"generation_config\.json: invalid top_k -1.*delete the key"):
            self.recommended(tmp_path, do_sample=True, top_k=-1)

    @pytest.mark.parametrize(
        ("stored", "expected"),
        [
            ({}, {}),
            ({"temp": 0.5, "top_k": 20, "top_p": 0.75}, {"temperature": 0.5, "top_k": 20, "top_p": 0.75}),
            ({"min_p": 0.25, "top_k": -1, "mirostat": 2}, {"temperature": 1.0, "min_p": 0.25}),
            ({"temp": 0.0, "top_k": 20, "penalty_repeat": 1.5}, {"repetition_penalty": 1.5}),
            ({"temp": 0.5, "penalty_repeat": 1.5, "penalty_last_n": 0}, {"temperature": 0.5}),
        ],
    )
    def test_a_gguf_file_gives_its_settings(
        self, stored: dict[str, float], expected: dict[str, Any], tmp_path: Path
    ) -> None:
        source = resolve(str(self.gguf_file(tmp_path, **stored)), "auto", ())
        assert recommended_sampling(source) == SamplingParams(**expected)

    def test_a_wrong_value_of_a_gguf_file_is_named(self, tmp_path: Path) -> None:
        path = self.gguf_file(tmp_path, temp=0.5, top_p=7.0)
        with pytest.raises(ModelError, match=r"model\.gguf: invalid top_p 7\.0.*convert the model again"):
            recommended_sampling(resolve(str(path), "auto", ()))

    def gguf_file(self, folder: Path, **sampling: float) -> Path:
        writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
        for key, value in sampling.items():
            add = writer.add_int32 if isinstance(value, int) else writer.add_float32
            add(f"general.sampling.{key}", value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return folder / "model.gguf"

    def test_models_without_the_file_recommend_nothing(self) -> None:
        for source in (resolve("smollm2-135m", "auto", ()), resolve("gpt2", "dummy", ("gpt2",))):
            assert recommended_sampling(source) == SamplingParams()


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
