"""Ways to group the work of a GPU in a table."""

from typing import Literal, get_args

GroupBy = Literal["op", "shape", "kernel", "category", "module", "stack"]
"""Values of `--group-by`."""
GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
