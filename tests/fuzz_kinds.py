"""All kinds of inputs that `tests/fuzz_inputs.py` damages; those of model files are in `tests/fuzz_models.py`."""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from fuzz_kind import ODD, Kind, Result, run_file
from fuzz_models import checkpoint_kind, config_json_kind, gguf_kind, safetensors_kind
from tiny import save_tokenizer

from roseinfer.cache_folder import cache_folder, read_cached, write_cached
from roseinfer.config import SamplingParams
from roseinfer.config_file import load_config
from roseinfer.text.chat_template import ChatTemplate
from roseinfer.text.huggingface import HuggingFaceTokenizer, read_tokenizer_json
from roseinfer.trace import summarize_trace
from roseinfer.workload.request_lines import read_requests


def tokenizer_kind(folder: Path) -> Kind:
    save_tokenizer(folder)
    whole = (folder / "tokenizer.json").read_bytes()

    def ids(path: Path) -> list[int]:
        return HuggingFaceTokenizer(read_tokenizer_json(path)).encode("some text")

    def damage(rng: random.Random) -> bytes:
        what = rng.randrange(4)
        if what == 0:
            return whole[: rng.randrange(len(whole) - 2)]
        if what == 1:
            depth = rng.choice([100, 10_000])
            return whole.replace(b'"normalizer": null', b'"normalizer": ' + b"[" * depth + b"]" * depth)
        changed = json.loads(whole)
        if what == 2:
            changed[rng.choice(["version", "model", "added_tokens", "decoder"])] = rng.choice(ODD)
        else:
            changed["model"][rng.choice(["type", "vocab", "merges"])] = rng.choice(ODD)
        return json.dumps(changed).encode()

    expected = ids(folder / "tokenizer.json")
    run = run_file(folder / "damaged-tokenizer.json", ids)
    return Kind("tokenizer.json", damage, run, lambda found: found == expected)


_NASTY = [
    "{{ 'x' * 10000000000 }}",
    "{% for i in range(99999) %}BODY{% endfor %}",
    "{{ range(99999) | list }}",
    "{{ x ~ x }}",
    "{% set x = [x, x] %}",
    "{% set x = x ~ x %}",
    "{{ x | replace('', 'aaaa') }}",
    "{{ x | center(9999999999) }}",
    "{{ '%9999999d' % 1 }}",
    "{{ x.__class__.__mro__ }}",
    "{{ messages[9].role }}",
    "{{ messages | tojson(indent=99999) }}",
    "{% raw %}",
    "{{ (((( }}",
    "{{ 9 ** 9 ** 9 }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ messages | map('join', x) | list }}",
    "{% set ns = namespace(x='aa') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{{ x | batch(99999999, x) | list }}",
    "{{ x | indent(99999999) }}",
    "{{ cycler(x, x).next() }}",
    "{{ x[::-1] * 99999 }}",
    "{{ ''.join([x, x]) }}",
    "{{ '{:>{}}'.format(1, 99999999) }}",
    "{{ raise_exception('no') }}",
    "{{ x | wordwrap(1, wrapstring=x) }}",
]
"""Parts of templates that a sandbox alone lets run for minutes, or that fail."""


def template_kind(_folder: Path) -> Kind:
    messages = [{"role": "user", "content": "Hello"}]

    def damage(rng: random.Random) -> bytes:
        parts = [rng.choice(_NASTY) for _ in range(rng.randint(1, 4))]
        body = "".join(parts).replace("BODY", rng.choice(_NASTY).replace("BODY", ""))
        if rng.random() < 0.3:
            body = "{% for a in range(9999) %}" + body + "{% endfor %}"
        if rng.random() < 0.1:
            body = body[: rng.randrange(len(body))]
        return ("{% set x = 'ab' * 1000 %}" + body).encode()

    def run(data: bytes) -> Result:
        return ChatTemplate(data.decode(), "<s>", "</s>").render(messages)

    return Kind("chat template", damage, run, lambda found: isinstance(found, str) and len(found) < 8 << 20)


def requests_kind(folder: Path) -> Kind:
    path = folder / "requests.jsonl"
    good = b'{"prompt": "Hi", "id": "good"}\n'

    def read(file: Path) -> Result:
        return [(row.prompt, row.params.n) for row in read_requests(str(file), SamplingParams(), keep_wrong=True)
                if row.refusal is None and row.id == "good"]  # fmt: skip

    def damage(rng: random.Random) -> bytes:
        fields: dict[str, Any] = {"prompt": "Hi", "id": "bad"}
        keys = ["n", "stop", "logit_bias", "logprobs", "top_k", "temperature", "messages", "prompt_token_ids", "seed"]
        keys += ["max_new_tokens", "stop_token_ids", "min_new_tokens", "max_tokens", "tools", "body", "prompt"]
        for _ in range(rng.randint(1, 3)):
            fields[rng.choice(keys)] = rng.choice([*ODD, None, True, 0, 1.5, ["a"], {"1": 1}, [{"role": "user"}]])
        line = json.dumps(fields).encode()
        if rng.random() < 0.3:
            at = rng.randrange(len(line))
            line = (
                line[:at] + rng.choice([b"", b"\xff", b"\\ud800", b"[" * 20_000, b"\0"]) + line[at + rng.randrange(2) :]
            )
        return line + b"\n" + good

    return Kind("request lines", damage, run_file(path, read), lambda found: found == [("Hi", 1)])


def toml_kind(folder: Path) -> Kind:
    whole = (
        b'[engine]\nmax_batch_size = 4\ndtype = "float32"\n[sampling]\ntemperature = 0.5\n[workload]\nprompts = ["a"]\n'
    )
    path = folder / "run.toml"

    def damage(rng: random.Random) -> bytes:
        words = [b"4", b'"float32"', b"0.5", b'["a"]', b"[engine]", b"temperature"]
        odd = [
            b"[" * 5000,
            b"nan",
            b"-1",
            b'"x"',
            b"1e400",
            b"{}",
            b"9" * 5000,
            b"[[]]",
            b"\xff",
            b"true",
            b"",
            b"[x]",
            b"= =",
        ]
        data = whole
        for _ in range(rng.randint(1, 2)):
            data = data.replace(rng.choice(words), rng.choice(odd), 1)
        return data

    def run(file: Path) -> Result:
        load_config(str(file))
        return True

    return Kind("TOML config", damage, run_file(path, run), bool)


def trace_kind(folder: Path) -> Kind:
    sys.path.insert(0, str(Path(__file__).parent / "trace"))
    from fuzz import Chance, damaged, hostile_trace, seeds

    good = seeds()

    def damage(rng: random.Random) -> bytes:
        draw = Chance(rng.getrandbits(48))
        return hostile_trace(draw) if rng.random() < 0.5 else damaged(draw, rng.choice(good))

    def run(path: Path) -> Result:
        return summarize_trace(path) is not None

    return Kind("trace", damage, run_file(folder / "trace.json", run), bool)


def cache_kind(folder: Path) -> Kind:
    os.environ["ROSEINFER_CACHE_DIR"] = str(folder / "cache")  # the test that calls this restores the variable
    path = cache_folder() / "entry.json"
    write_cached(path, b'{"rate": 1.5}' * 20)
    whole = path.read_bytes()

    def damage(rng: random.Random) -> bytes:
        data = bytearray(whole)
        if rng.random() < 0.3:
            return whole[: rng.randrange(len(whole))]
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)

    return Kind("cached file", damage, run_file(path, lambda file: read_cached(file)), lambda found: False)


KINDS = (
    gguf_kind,
    safetensors_kind,
    config_json_kind,
    checkpoint_kind,
    tokenizer_kind,
    template_kind,
    requests_kind,
    toml_kind,
    trace_kind,
    cache_kind,
)
"""Functions that make a kind, with its files in a folder."""
