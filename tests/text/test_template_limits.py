"""Chat templates that would take minutes or gigabytes end at a limit, in one line, and ordinary ones do not meet it."""

import json
from collections import deque
from typing import Any

import jinja2.sandbox
import pytest

from roseinfer.errors import ModelError
from roseinfer.text import template_budget
from roseinfer.text.chat_template import MAX_SOURCE, ChatTemplate
from roseinfer.text.template_budget import TemplateBudget, TemplateLimitError, size_of

USER = [{"role": "user", "content": "Hello, world"}]
MIB = 1 << 20

DOUBLING = (
    "{% set ns = namespace(x='ab') %}{% for i in range(200) %}{% set ns.x = BODY %}{% endfor %}{{ ns.x | length }}"
)

HOSTILE = {
    "nested ranges": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "nested ranges in filters": "{% for a in range(9999) %}{% if range(99999) | list | sum %}{% endif %}{% endfor %}",
    "mapped ranges": "{% for a in range(9999) %}{{ range(99999) | map('string') | map('length') | sum }}{% endfor %}",
    "lipsum": "{{ lipsum(n=100000) }}",
    "repetition": "{{ 'x' * 10000000000 }}",
    "repetition of a variable": "{% set n = messages | length * 10000000000 %}{{ 'x' * n }}",
    "repetition of a list": "{{ ([1] * 10000000000) | length }}",
    "text of a list": "{% if ['\\0' * 1100000] | string %}{% endif %}",
    "folded constants": "{{ 'x' | center(9000000000) }}",
    "folded product": "{{ (99999999 ** 99999999) }}",
    "power of a variable": "{% set n = messages | length + 99999 %}{{ n ** n ** n }}",
    "growing integer": "{% set ns = namespace(x=7) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "doubling by +": DOUBLING.replace("BODY", "ns.x + ns.x"),
    "doubling by ~": DOUBLING.replace("BODY", "ns.x ~ ns.x"),
    "doubling by %": DOUBLING.replace("BODY", "'%s%s' % (ns.x, ns.x)"),
    "doubling by format": DOUBLING.replace("BODY", "'{0}{0}'.format(ns.x)"),
    "doubling by the filter format": DOUBLING.replace("BODY", "'%s%s' | format(ns.x, ns.x)"),
    "doubling by join": DOUBLING.replace("BODY", "[ns.x, ns.x] | join(',')"),
    "doubling by str.join": DOUBLING.replace("BODY", "','.join([ns.x, ns.x])"),
    "doubling by replace": DOUBLING.replace("BODY", "ns.x | replace('a', 'aa')"),
    "doubling by str.replace": DOUBLING.replace("BODY", "ns.x.replace('a', 'aa')"),
    "doubling by a block": "{% set ns = namespace(x='ab') %}{% for i in range(99) %}"
    "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "doubling by a macro": "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set ns = namespace(x='ab') %}"
    "{% for i in range(99) %}{% set ns.x = m(ns.x) %}{% endfor %}",
    "doubling by a list": DOUBLING.replace("'ab'", "[1]").replace("BODY", "[ns.x, ns.x]").replace("| length", ""),
    "doubling by a dict": DOUBLING.replace("'ab'", "{}").replace("BODY", "{'a': ns.x, 'b': ns.x}"),
    "doubling by dict()": DOUBLING.replace("'ab'", "{}").replace("BODY", "dict(a=ns.x, b=ns.x)"),
    "doubling by batch": DOUBLING.replace("'ab'", "[1]").replace("BODY", "[] | batch(2, ns.x) | list + [ns.x, ns.x]"),
    "doubling by a namespace": "{% set ns = namespace(x=1) %}{% for i in range(99) %}"
    "{% set y = namespace(a=ns.x, b=ns.x) %}{% set ns.x = y %}{% endfor %}{{ ns.x }}",
    "a cycle": "{% set a = namespace() %}{% set a.x = [a, a] %}{{ a }}{{ a | string }}",
    "slices": "{% set ns = namespace(x='ab' * 1000000) %}{% macro m(n, s) %}{% set t = s[1:] %}{{ m(n - 1, t) if n }}"
    "{% endmacro %}{{ m(300, ns.x) }}",
    "slice": "{{ range(9) | slice(9000000000) | list | length }}",
    "batch": "{{ range(9) | batch(9000000000, 'x') | list | length }}",
    "indent": "{{ ('a\\n' * 100000) | indent(100000) | length }}",
    "tojson indent": "{{ [[[[1] * 1000] * 10]] | tojson(indent=1000000) | length }}",
    "width of %": "{{ '%9000000000d' % 1 }}",
    "width of format": "{{ '{:9000000000}'.format(1) }}",
    "width from an argument": "{{ '%*d' % (2000000000, 1) }}{{ '{:{}}'.format(1, 9000000000) }}",
    "str.ljust": "{{ 'x'.ljust(9000000000) }}",
    "str.zfill": "{{ 'x'.zfill(9000000000) }}",
    "str.expandtabs": "{{ ('\\t' * 100000).expandtabs(100000) }}",
    "str.translate": "{{ ('a' * 100000).translate({97: 'b' * 100000}) | length }}",
    "int.to_bytes": "{{ (5).to_bytes(9000000000, 'big') }}",
    "wordwrap": "{{ ('a ' * 100000) | wordwrap(1, wrapstring='b' * 100000) | length }}",
    "urlize": "{{ ('http://a.b ' * 100000) | urlize(rel='b' * 100000) | length }}",
    "output": "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "block": "{% block a %}{% if messages %}{{ self.a() }}{% endif %}{% endblock %}",
    "recursive loop": "{% for i in range(9999) recursive %}{{ loop(range(9999)) }}{% endfor %}",
    "comparison": "{% set ns = namespace(a=[], b=[]) %}{% for i in range(99) %}{% set ns.a = [ns.a, ns.a] %}"
    "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
    "nested parentheses": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "nested lists": "{{ " + "[" * 50_000 + "]" * 50_000 + " }}",
    "nested loops": "{% for i in [1] %}" * 500 + "{% endfor %}" * 500,
    "long source": "a" * (MAX_SOURCE + 1),
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "infinite recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_ends_in_one_line(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "MAX_STEPS", 20_000)  # the same limits, sooner
    monkeypatch.setattr(template_budget, "MAX_CHARACTERS", 8 * MIB)
    with pytest.raises(ModelError) as caught:
        ChatTemplate(source, "<s>", "</s>").render(USER)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert "give --raw" in message
    assert "more memory" not in message, "refused by its size, not by the machine's memory"


@pytest.mark.parametrize("name", ["nested ranges", "doubling by +"])
def test_the_limits_as_they_are(name: str) -> None:
    with pytest.raises(ModelError, match="was ended, because it"):
        ChatTemplate(HOSTILE[name], "", "").render(USER)


def test_a_template_that_takes_too_long_is_ended() -> None:
    times = iter(float(second) for second in range(1000))
    budget = TemplateBudget(0, 1, clock=lambda: next(times))
    with pytest.raises(TemplateLimitError, match="more than 10 s"):
        deque((budget.step() for _ in range(10_000)), maxlen=0)


ORDINARY = {
    "loop": "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.revindex0 }} {{ m.role ~ ': ' }}"
    "{{ m['content'] }}{% if not loop.last %}, {{ loop.nextitem.role }}{% endif %}{% endfor %}",
    "filtered loop": "{% for m in messages if m.role == 'user' %}{{ m.content | upper }}{% else %}none{% endfor %}",
    "slices": "{% for m in messages[1:] %}{{ m.content[:3] }}{% endfor %}{{ messages[::-1][0]['role'] }}",
    "unpacking": "{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}",
    "recursive": "{% for m in [[1, [2]], [3]] recursive %}{% if m is iterable %}({{ loop(m) }})"
    "{% else %}{{ m }}{% endif %}{% endfor %}",
    "strings": "{{ 'a,b'.split(',') }}{{ 'x' * 3 }}{{ '%s-%03d' % ('a', 7) }}{{ 'ab'.replace('a', 'c') }}",
    "str.format": "{{ '{}{:>4}'.format(1, 2) }}",
    "filters": "{{ [3, 1] | sort | join('-') }}{{ {'b': 1} | tojson }}{{ 'ab' | center(6) }}",
    "lists": "{{ range(5) | batch(2) | list }}{{ [1] + [2, 3] }}{{ [0] * 3 }}{{ 'abc' | list }}",
    "chained": "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join('|') }}",
    "numbers": "{{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 10 }} {{ 1.5 * 2 }} {{ -3 + 1 }} {{ 7 / 2 }}",
    "block": "{% set x %}{% for m in messages %}[{{ m.role }}]{% endfor %}{% endset %}{{ x | length }}{{ x }}",
    "macro": "{% macro turn(m, sep=':') %}{{ m.role }}{{ sep }}{{ caller() if caller else '' }}{% endmacro %}"
    "{{ turn(messages[0]) }}{% call turn(messages[1]) %}called{% endcall %}",
    "namespace": "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m.role] %}"
    "{% endfor %}{{ ns.all }}",
    "tuples": "{% set a, b = 1, (2, 3) %}{{ a }}{{ b[1] }}{% for x in 'ab' %}{{ x }}{% endfor %}{{ {'k': [1]}['k'] }}",
    "undefined": "{% for x in missing %}{{ x }}{% else %}empty{% endfor %}{{ missing }}{{ missing is defined }}",
}


@pytest.mark.parametrize("source", ORDINARY.values(), ids=ORDINARY)
def test_an_ordinary_template_renders_as_jinja_renders_it(source: str) -> None:
    messages = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "日本 {x} %s"},
    ]
    plain: Any = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    plain.filters["tojson"] = json.dumps
    assert ChatTemplate(source, "", "").render(messages) == plain.from_string(source).render(messages=messages)


def test_long_messages_do_not_meet_the_limits() -> None:
    source = (
        "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}"
        "{% for m in ns.all %}{{ '<' ~ m.role ~ '>' + m.content.strip().replace('\\n', '<br>').split('</think>')[-1] }}"
        "{% if loop.index == messages | length %}{{ messages[loop.index0:] | length }}{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "one line\n" * 3000}] * 300
    rendered = ChatTemplate(source, "", "").render(messages)
    assert len(rendered) > 300 * 3000 * 9


def test_a_size_counts_what_would_be_printed() -> None:
    assert size_of("abc", 100) == 3
    assert size_of([1, "abc", {"k": "vv"}], 100) == 3 + 1 + 3 + 1 + 1 + 2
    nested: list[Any] = [1]
    for _ in range(200):
        nested = [nested, nested]
    assert size_of(nested, 1000) > 1000
    cycle: list[Any] = []
    cycle.append(cycle)
    assert size_of(cycle, 1000) > 1000
