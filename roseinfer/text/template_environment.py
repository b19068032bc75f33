"""The Jinja environment of chat templates: a sandbox whose every loop, call, operator and filter is counted.

The sandbox keeps a template from running code. It does not bound time and memory: nested loops, `lipsum`, repeated
doubling, and constants that Jinja folds while it compiles can take minutes or all memory. Here each of those asks the
`TemplateBudget` of the rendering. While a template is compiled there is no budget, so nothing is folded.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from roseinfer.text.template_budget import TemplateBudget, TemplateLimitError

BUDGET: ContextVar[TemplateBudget] = ContextVar("template_budget")
"""Budget of the rendering that runs in this context."""

_NESTING = ("batch", "slice", "groupby")
"""Filters that put lists into lists. The results of others hold what their operand holds."""
_BUILT_IN = (str, bytes, int, float, list, tuple, dict, set, frozenset, range)


class CountedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox that counts a rendering's work against `BUDGET`. Compile templates with `compiled`."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)
    """All binary operators. Jinja folds no constants of intercepted ones."""

    def __init__(self, filters: Mapping[str, Callable[..., Any]], **options: Any) -> None:
        """`filters` are added to Jinja's own, or replace them."""
        super().__init__(finalize=_charged, **options)
        self.globals.pop("lipsum")
        self.concat = _concat  # type: ignore[method-assign]
        known = {**self.filters, **filters}
        self.filters = {name: _counted_filter(name, function) for name, function in known.items()}
        self.filters |= {_COUNTED: _counted, _CHARGED: _charged, _JOINED: _joined, _SLICED: _sliced}

    def compiled(self, source: str) -> Any:
        """Return a template whose loops, literals and concatenations are counted."""
        tree = self.parse(source)
        _count_nodes(tree)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Count a binary operator and its result."""
        budget = _budget()
        budget.binary(operator, left, right)
        result = super().call_binop(context, operator, left, right)
        budget.read(result)
        return result if operator == "+" else budget.charge(result)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Count a call and its result."""
        budget = _budget()
        budget.step()
        # Jinja wraps str.format in a function.
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(__obj, LoopContext) and args:
            args = (_counted(args[0]), *args[1:])
        elif isinstance(owner, _BUILT_IN) and not isinstance(owner, type):
            budget.method(owner, getattr(__obj, "__name__", ""), args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        budget.read(result)
        return result if isinstance(owner, str) else budget.charge(result)


_COUNTED, _CHARGED, _JOINED, _SLICED = "counted ", "charged ", "joined ", "sliced "
"""Names of the filters around counted nodes. A template cannot name them, because of the space."""


def _budget() -> TemplateBudget:
    budget = BUDGET.get(None)
    if budget is None:
        raise TemplateLimitError("constants are not folded")
    return budget


class _CountedIterable:
    """An iterable whose iterations are steps."""

    def __init__(self, items: Iterable[Any], *, is_charged: bool = False) -> None:
        """With `is_charged`, each item is a value that was made."""
        self._items = items
        self._is_charged = is_charged

    def __iter__(self) -> Iterator[Any]:
        budget = _budget()
        for item in self._items:
            budget.step()
            yield budget.charge(item) if self._is_charged else item


class _CountedCollection(_CountedIterable):
    """A counted iterable with a length, for `loop.length` and `loop.revindex`."""

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]


def _counted(value: Any) -> Any:
    iter(value)  # raises TypeError for what is not iterable, as the loop would
    return _CountedCollection(value) if hasattr(value, "__len__") else _CountedIterable(value)


def _charged(value: Any) -> Any:
    return _budget().charge(value)


def _sliced(value: Any) -> Any:
    _budget().read(value)
    return value


def _joined(parts: list[Any]) -> str:
    """Join the operands of `~` as texts."""
    budget = _budget()
    budget.step()
    return str(budget.charge("".join(str(budget.charge(part)) for part in parts)))


def _concat(parts: Iterable[str]) -> str:
    """Join the output of a macro or of a block that is assigned."""
    budget = _budget()
    return str(budget.charge("".join(map(budget.charge, parts))))


def _counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def counted(*args: Any, **options: Any) -> Any:
        budget = _budget()
        budget.step()
        if len(args) > first:
            value = args[first]
            if isinstance(value, Iterator):
                value = _CountedIterable(value)
                args = (*args[:first], list(value) if name == "join" else iter(value), *args[first + 1 :])
            budget.method(args[first], name, args[first + 1 :], options)
            budget.read(args[first])
        result = function(*args, **options)
        if isinstance(result, Iterator):
            return iter(_CountedIterable(result, is_charged=name in _NESTING))
        budget.read(result)
        return budget.charge(result) if name in _NESTING or isinstance(result, str) else result

    return counted


def _count_nodes(node: nodes.Node) -> None:
    """Wrap a tree's loops, slices, list, tuple and dict literals, and concatenations in counting filters."""
    for field, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            setattr(node, field, _counted_node(node, field, value))
        elif isinstance(value, list):
            value[:] = [_counted_node(node, field, item) if isinstance(item, nodes.Node) else item for item in value]


def _counted_node(parent: nodes.Node, field: str, node: nodes.Node) -> nodes.Node:
    _count_nodes(node)
    if isinstance(node, nodes.Concat):
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _JOINED)
    if isinstance(parent, nodes.For) and field == "iter" and isinstance(node, nodes.Expr):
        return _filtered(node, _COUNTED)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _filtered(node, _SLICED)
    is_value = isinstance(node, (nodes.List, nodes.Dict)) or (isinstance(node, nodes.Tuple) and node.ctx == "load")
    return _filtered(node, _CHARGED) if is_value and isinstance(node, nodes.Expr) else node


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
