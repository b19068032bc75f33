"""Names and numbers as people read them."""

import re

_FUNCTOR = re.compile(r"\b(?!operator)\w+_(?:kernel_cuda|cuda|kernel_impl)\b|\b\w*Functor\w*|\b\w+Ops\b")
"""What a generic kernel of torch was instantiated for."""
_DOTTED = re.compile(r"[\w.]+\.[\w.]+$")
"""A span's name: its end says most."""
_NOISE = ("(anonymous namespace)::", "at::native::", "at_cuda_detail::", "std::", "void ")


def counted(number: int, thing: str) -> str:
    """`1 step`, `2 steps`, `2 launches`."""
    return f"{number:,} {thing}{'e' * (number != 1 and thing.endswith('ch'))}{'s' * (number != 1)}"


def duration(milliseconds: float, digits: int = 1) -> str:
    """`83.2 ms`, and `832.0 us` for what is shorter than a millisecond."""
    if milliseconds == 0 or milliseconds >= 1:
        return f"{milliseconds:,.{digits}f} ms"
    return f"{1000 * milliseconds:,.{digits}f} us"


def short_name(name: str, width: int) -> str:
    """A kernel's or operator's name in at most `width` columns.

    Drops what says little (return type, parameter list, the namespaces of torch itself) and then, if it must, cuts
    the middle of the template arguments, so that the function and the end, which tells variants apart, stay.
    """
    if len(name) <= width:
        return name
    indent = len(name) - len(name.lstrip(" "))
    if 0 < indent < width // 2:
        return name[:indent] + short_name(name[indent:], width - indent)
    plain = _without_parameters(name)
    for noise in _NOISE:
        plain = plain.replace(noise, "")
    plain = plain.strip() or name
    if len(plain) <= width:
        return plain
    if _DOTTED.match(plain):
        return f"…{plain[1 - width :]}"
    head = plain.find("<") + 1
    functor = _FUNCTOR.search(plain, head)
    if head and functor and head + len(functor.group()) + 3 <= width:
        return f"{plain[:head]}…{functor.group()}…>"
    if not 0 < head <= width * 3 // 4:
        head = width * 3 // 5
    tail = width - 1 - head
    return f"{plain[: width - 1]}…" if tail < 4 else f"{plain[:head]}…{plain[-tail:]}"


def _without_parameters(name: str) -> str:
    """The name up to its last top-level `(...)`, if anything stands before it."""
    if not name.endswith(")"):
        return name
    depth = 0
    for index in range(len(name) - 1, -1, -1):
        if name[index] == ")":
            depth += 1
        elif name[index] == "(":
            depth -= 1
            if depth == 0:
                return name[:index].rstrip() if index else name
    return name
