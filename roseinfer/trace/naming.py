"""Write names, counts and durations for people to read."""

import re

_FUNCTOR = re.compile(r"\b(?!operator)\w+_(?:kernel_cuda|cuda|kernel_impl)\b|\b\w*Functor\w*|\b\w+Ops\b")
"""The operation in the template arguments of a generic torch kernel, such as `AddFunctor`."""
_DOTTED = re.compile(r"[\w.]+\.[\w.]+$")
"""A dotted name, such as a span's; its end is the most specific part."""
_NOISE = ("(anonymous namespace)::", "at::native::", "at_cuda_detail::", "std::", "void ")


def counted(number: int, thing: str) -> str:
    """Return a count with its noun in singular or plural: `1 step`, `2 steps`, `2 launches`."""
    return f"{number:,} {thing}{'e' * (number != 1 and thing.endswith('ch'))}{'s' * (number != 1)}"


def duration(milliseconds: float, digits: int = 1) -> str:
    """Return a duration with its unit: `83.2 ms`, or `832.0 us` below one millisecond."""
    if milliseconds == 0 or milliseconds >= 1:
        return f"{milliseconds:,.{digits}f} ms"
    return f"{1000 * milliseconds:,.{digits}f} us"


def byte_size(size: float) -> str:
    """Return a number of bytes with its unit, in powers of 1,000: `10.5 MB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(size) >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size:,.0f} B"


def short_name(name: str, width: int) -> str:
    """Shorten the name of a kernel, operator or span to at most `width` columns.

    The return type, the parameter list and torch's own namespaces go first. If the name is still too long, the middle
    of its template arguments is replaced by an ellipsis: the end tells variants of a kernel apart. Dotted names lose
    their beginning. A short indentation is kept.
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
    """Return the name without a trailing parameter list, unless nothing would remain."""
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
