"""Results in notebooks: HTML that brings its own style and escapes everything, and reprs of one line."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scripted_results import results

import roseinfer
from roseinfer.bench.baseline_comparison import comparison
from roseinfer.cli.notebook_views import html_of
from roseinfer.config import EngineConfig, SamplingParams
from roseinfer.engine.outputs import RequestOutput
from roseinfer.notebook import short_repr
from roseinfer.profiling.session import SessionResult
from roseinfer.trace import compare, summarize_trace

TRACE = Path(__file__).parents[1] / "trace" / "data" / "origin_gather_decode_h200.json.gz"
HOSTILE = '<script>alert("x")</script>'
_VOID = {"meta", "br", "wbr"}


class _Balance(HTMLParser):
    """Checks that every element is closed, and counts elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def output(text: str = " Paris.", **more: Any) -> RequestOutput:
    fields = {
        "request_id": 3,
        "sample_index": 0,
        "prompt_token_ids": [1, 2, 3, 4, 5],
        "token_ids": [6, 7, 8],
        "text": text,
        "finish_reason": "stop",
        "submitted_s": 10.0,
        "token_times_s": [10.045, 10.065, 10.085],
        "logprobs": None,
    }
    return RequestOutput(**{**fields, **more})


def everything() -> list[Any]:
    summary = summarize_trace(TRACE)
    old, new = results([0.010, 0.011]), results([0.020, 0.021])
    compared = comparison(Path("old.json"), old, new, 5.0)
    both = compare(summary, summary)
    return [
        output(),
        summary,
        both,
        both.comparison,
        new,
        msgspec.structs.replace(new, comparison=compared),
        compared,
        SessionResult(run_dir=Path("profiles/x"), traces=[], summary=summary, manifest=None),  # type: ignore[arg-type]
    ]


@pytest.fixture(scope="module")
def shown() -> list[Any]:
    return everything()


def test_every_result_is_one_balanced_element_with_its_style(shown: list[Any]) -> None:
    for result in shown:
        html = result._repr_html_().strip()
        parser = _Balance()
        parser.feed(html)
        assert parser.open == []
        assert parser.seen[:2] == ["div", "style"]
        assert html.startswith('<div class="roseinfer">')
        assert "script" not in parser.seen


def test_every_repr_fits_a_line(shown: list[Any]) -> None:
    for result in shown:
        assert len(repr(result)) <= 79
        assert repr(result).startswith(f"{type(result).__name__}(")
        assert "\n" not in repr(result)


def test_the_repr_of_an_output_has_its_tokens_and_the_start_of_its_text() -> None:
    assert repr(output()) == "RequestOutput(3, 5 + 3 tokens, stop, ' Paris.')"
    long = repr(output("word\n" * 1000, sample_index=2, finish_reason="length"))
    assert long.startswith("RequestOutput(3.2, 5 + 3 tokens, length, 'word\\nword")
    assert long.endswith("…')")
    assert len(long) <= 79


@pytest.mark.parametrize("text", ["", "x" * 500, "\n" * 500, "'\"" * 300, "表" * 300])
def test_short_reprs_fit_whatever_the_text(text: str) -> None:
    assert len(short_repr("Name", "1 fact", text)) <= 79


def test_an_output_shows_text_and_times() -> None:
    html = output("a < b\n  c")._repr_html_()
    assert "a &lt; b\n  c" in html
    assert "5 prompt tokens · 3 completion tokens · first token after 45 ms · 20.0 ms per further token" in html
    assert "first token" not in output(token_ids=[], token_times_s=[])._repr_html_()


def test_texts_of_models_and_traces_are_escaped(shown: list[Any]) -> None:
    summary = shown[1]
    verdict = msgspec.structs.replace(summary.verdict, headline=HOSTILE, evidence=[HOSTILE])
    for result in (output(HOSTILE), msgspec.structs.replace(summary, verdict=verdict)):
        assert "<script" not in result._repr_html_()


def test_configs_show_only_what_was_set() -> None:
    assert repr(EngineConfig(model="gpt2")) == "EngineConfig(model='gpt2')"
    assert repr(SamplingParams(top_k=3)) == "SamplingParams(top_k=3)"


def test_errors_and_other_objects_are_left_alone() -> None:
    assert not hasattr(roseinfer.RoseinferError("x"), "_repr_html_")
    with pytest.raises(TypeError, match="no view for dict"):
        html_of({})


def test_importing_results_imports_no_renderer() -> None:
    code = (
        "import sys, roseinfer.engine.outputs, roseinfer.trace.summary.trace_summary\n"
        "print([name for name in sys.modules if name.startswith(('jinja2', 'rich', 'roseinfer.cli', 'torch'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
