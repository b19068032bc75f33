"""Chat templates render as in transformers, run in a sandbox, and report errors in one line."""

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unicode_text import texts

from roseinfer.errors import ModelError
from roseinfer.text.assets import TextAssets
from roseinfer.text.chat_template import ChatTemplate

MESSAGES = [
    {"role": "system", "content": "Be <b>brief</b> & 'kind'."},
    {"role": "user", "content": "  Name three planets.\n"},
    {"role": "assistant", "content": "Mars"},
    {"role": "user", "content": "日本 👩‍👧?"},
]

TEMPLATES = {
    "a loop with controls": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "[{{ m.role }}] {{ m.content | trim }}{{ eos_token }}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}"
    ),
    "blocks on their own lines": """
    {%- for message in messages %}
        {{- '<|' + message['role'] + '|>\\n' }}
        {% if not loop.last %}
            {{ message['content'] }}
        {% endif %}
    {% endfor %}
    {% if add_generation_prompt %}
GO
    {% endif %}""",
    "JSON": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "marks for training": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}"
        "{% if tools is none and not documents %}no tools{% endif %}"
    ),
    "a macro and a namespace": (
        "{% macro turn(m) %}<{{ m['role'] }}>{{ m['content'] }}{% endmacro %}{% set ns = namespace(n=0) %}"
        "{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ turn(m) }}{{ ns.n }}{% endfor %}"
    ),
}


class TestAgainstTransformers:
    @pytest.mark.parametrize("add_generation_prompt", [True, False])
    @given(
        messages=st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}),
            min_size=1,
            max_size=4,
        )
    )
    def test_the_demo_models_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool, demo: TextAssets, transformers_demo: Any
    ) -> None:
        assert demo.chat_template is not None
        theirs = transformers_demo.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        assert demo.chat_template.render(messages, add_generation_prompt) == theirs

    @pytest.mark.parametrize("name", TEMPLATES)
    def test_what_templates_in_the_wild_use(self, name: str, transformers_demo: Any) -> None:
        ours = ChatTemplate(TEMPLATES[name], transformers_demo.bos_token, transformers_demo.eos_token)
        theirs = transformers_demo.apply_chat_template(
            MESSAGES, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True
        )
        assert ours.render(MESSAGES) == theirs

    def test_the_demo_models_prompt_encodes_to_transformers_ids(self, demo: TextAssets, transformers_demo: Any) -> None:
        assert demo.chat_template is not None
        assert demo.tokenizer is not None
        theirs = transformers_demo.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
        assert demo.tokenizer.encode(demo.chat_template.render(MESSAGES), allow_special=True) == theirs


def test_today_is_today() -> None:
    before = datetime.date.today()
    rendered = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}", "", "").render([])
    assert rendered in {str(before), str(datetime.date.today())}


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("{{ raise_exception('Only user and\n assistant roles!') }}", "Only user and assistant roles!"),
        ("{{ messages[0]['content'] + 1 }}", "str"),
        ("{{ messages[7].content.lower() }}", "no element 7"),
        ("{{ 1 // 0 }}", "zero"),
    ],
)
def test_a_template_that_fails_is_a_model_error_in_one_line(source: str, named: str) -> None:
    with pytest.raises(ModelError, match=named) as caught:
        ChatTemplate(source, "", "").render(MESSAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ unclosed", "{% generation %}", "{% nosuchtag %}", "{{ x | nosuch }}"]
)
def test_a_template_that_does_not_parse_is_a_model_error_in_one_line(source: str) -> None:
    template = ChatTemplate(source, "", "")  # a broken template does not prevent prompts without it
    with pytest.raises(ModelError, match="chat template is broken") as caught:
        template.render(MESSAGES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ range(10**9) | list }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_the_sandbox_lets_a_template_do_no_harm(source: str) -> None:
    with pytest.raises(ModelError, match="chat template failed"):
        ChatTemplate(source, "", "").render(MESSAGES)


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


def test_tools_and_options_reach_the_template_as_in_transformers(transformers_demo: Any) -> None:
    source = "{% if tools %}{{ tools | tojson }}{% endif %}{{ enable_thinking }} {{ messages[0]['content'] }}"
    ours = ChatTemplate(source, "", "").render(MESSAGES, tools=TOOLS, options={"enable_thinking": False})
    assert ours == transformers_demo.apply_chat_template(
        MESSAGES, tools=TOOLS, chat_template=source, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )


def test_of_several_templates_tool_use_serves_tools_and_the_first_stands_in_for_a_default() -> None:
    several = ChatTemplate({"rag": "rag", "tool_use": "tools", "default": "plain"}, "", "")
    assert (several.render(MESSAGES), several.render(MESSAGES, tools=TOOLS)) == ("plain", "tools")
    without_default = ChatTemplate({"chat": "first", "rag": "rag"}, "", "")
    assert (without_default.render(MESSAGES), without_default.render(MESSAGES, tools=TOOLS)) == ("first", "first")
