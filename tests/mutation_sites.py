"""Places of a source file where one small change should make a test fail, and the changed source."""

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the bytes from `start` to `stop` become `text`."""

    path: Path
    line: int
    start: int
    stop: int
    before: str
    text: str
    scope: str
    """Names of the classes and functions around the place, with dots in between; empty in a module."""
    nth: int = 1
    """Number of the place among those of the scope with the same change."""
    is_statement: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self._change}"

    @property
    def _change(self) -> str:
        return f"{' '.join(self.before.split())}  ->  {' '.join(self.text.split())}"

    @property
    def name(self) -> str:
        """Name that stays the same when other places of the file change."""
        return f"{self.path} {self.scope or 'module'}: {self._change}{f' ({self.nth})' if self.nth > 1 else ''}"

    @property
    def key(self) -> str:
        """Short form of the name."""
        return hashlib.blake2b(self.name.encode(), digest_size=6).hexdigest()

    def source(self, original: bytes) -> bytes:
        """Return the changed source."""
        return original[: self.start] + self.text.encode() + original[self.stop :]


def mutants_of(path: Path, source: bytes) -> list[Mutant]:
    """Return the mutants of a file, in the order of the source. `path` names it in messages."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tree = ast.parse(source)
    scopes = _scopes(tree)
    found = []
    for node, new in _changes(tree):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, stop = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        text = new if isinstance(new, str) else f"({ast.unparse(new)})"
        before, is_statement = source[start:stop].decode(), isinstance(node, ast.stmt)
        found.append(Mutant(path, node.lineno, start, stop, before, text, scopes[node], is_statement=is_statement))
    seen = Counter[str]()
    numbered = []
    for mutant in sorted(found, key=lambda mutant: (mutant.start, mutant.stop)):
        seen[mutant.name] += 1
        numbered.append(replace(mutant, nth=seen[mutant.name]))
    return numbered


def _scopes(tree: ast.AST) -> dict[ast.AST, str]:
    """Return the scope of each node."""
    scopes = {tree: ""}
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        scope = scopes[node]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope = f"{scope}.{node.name}".lstrip(".")
        for child in ast.iter_child_nodes(node):
            scopes[child] = scope
            waiting.append(child)
    return scopes


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.expr | str]]:
    """Walk the code that runs, and yield nodes with what replaces them."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        waiting += [child for child in ast.iter_child_nodes(node) if not _is_left_out(node, child)]
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                yield node, ast.Compare(left, [_COMPARISONS[type(op)]()], [right])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS and not _is_text(left, right):
                yield node, ast.BinOp(left, _OPERATORS[type(op)](), right)
            case ast.AugAssign(target=target, op=op, value=value) if type(op) in _OPERATORS:
                yield node, ast.unparse(ast.AugAssign(target, _OPERATORS[type(op)](), value))
            case ast.BoolOp(op=op, values=values):
                yield node, ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                yield node, operand
            case ast.Constant(value=bool(value)):
                yield node, str(not value)
            case ast.Constant(value=int(value)):
                yield node, str(value + 1)
            case ast.Constant(value=float(value)):
                yield node, repr(value * 2 or 1.0)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _FUNCTIONS:
                yield node, ast.Call(ast.Name(_FUNCTIONS[name]), args, keywords)
            case ast.If(test=test) | ast.IfExp(test=test) if not isinstance(test, ast.Compare | ast.UnaryOp):
                yield test, ast.UnaryOp(ast.Not(), test)
            case ast.Expr(value=ast.Call()):
                yield node, "pass"


def _is_left_out(parent: ast.AST, child: ast.AST) -> bool:
    """True for annotations, main guards, options of classes such as `frozen`, and f-strings.

    Tests do not run the first two, options of classes forbid what no code does, and parts of f-strings have no place.
    """
    if isinstance(child, ast.JoinedStr):
        return True
    if isinstance(parent, ast.AnnAssign | ast.arg):
        return child is parent.annotation
    if isinstance(parent, ast.ClassDef):
        return isinstance(child, ast.keyword) or child in parent.decorator_list
    if isinstance(parent, ast.FunctionDef):
        return child is parent.returns or child in parent.decorator_list
    if isinstance(child, ast.If):
        return ast.unparse(child.test) in {"__name__ == '__main__'", "TYPE_CHECKING"}
    return False


def _is_text(*nodes: ast.expr) -> bool:
    return any(isinstance(node, ast.JoinedStr | ast.Constant) and not _is_number(node) for node in nodes)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)
