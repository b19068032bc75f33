"""Recognize data loading by the names of operators, spans and Python functions."""

import re

import msgspec
import numpy as np

from roseinfer.trace.facts.innermost import innermost_at
from roseinfer.trace.facts.nesting import Forest, nest
from roseinfer.trace.facts.trace_facts import Facts
from roseinfer.trace.reading.columns import Ints, Ints32

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
"""Words of a name in snake case, camel case or with other separators."""

_LOADERS = re.compile(
    r"data_?(?:load|set_?iter|fetch|iter|pipe|wait|prefetch)|prepare_data|(?:^|\W)dali(?:\W|$)", re.IGNORECASE
)
_VERB = re.compile(
    r"""
    load(?:ing|er)? | read(?:ing)? | (?:pre)?fetch(?:ing|er)? | get | next | wait | iter | open | produce | parse
    | decode | (?:pre)?process(?:ing)? | augment | collate | resize | crop | tokenize | transform | sample
    """,
    re.VERBOSE,
)
_NOUN = re.compile(
    r"""
    data | datasets? | (?:mini)?batch(?:es)? | images? | imgs? | jpeg | videos? | audio | frames? | examples? | resize
    | crop | shard | tfrecord
    """,
    re.VERBOSE,
)
_WHOLE = re.compile(r"augment(?:ations?)? | collate | preprocess(?:ing)? | prefetcher | dataloader", re.VERBOSE)
"""Words that name data loading without a noun."""
_OTHER = re.compile(
    r"""
    weights? | params? | parameters? | checkpoint | model | experts? | layers? | module | kv | cache | fsdp | norm
    | grad | gradients? | kernel | plan | scheduler? | logits | outputs? | sampling | ptr | size | shape | d?type
    | device | state | info | metadata | stats | metrics | forward | backward | attention | loss | step | graph | memory
    | block | run | running | requests? | reqs? | prefill | tokens? | engine | server | decoder
    """,
    re.VERBOSE,
)
"""Words that show that something other than input data is loaded or prepared."""

_FRAME = re.compile(r"^(?P<file>.+)\(\d+\): (?P<function>.+)$")
_FILES = re.compile(
    r"""
    (?:^|/)(?:
        torch/utils/data/ | torchvision/(?:transforms|io|datasets)/ | torchaudio/(?:io|datasets|transforms)
      | torchcodec/ | torchdata/ | webdataset/ | streaming/base/ | litdata/ | ffcv/ | nvidia/dali/
      | tensorflow_datasets/
      | datasets/(?:arrow_dataset|iterable_dataset|formatting|features|table|builder) | PIL/ | cv2/ | decord/ | av/
      | albumentations/ | imgaug/ | kornia/augmentation | skimage/ | imageio/ | librosa/ | soundfile
      | transformers/(?:image_|video_|audio_|feature_extraction_|data/)
      | transformers/models/\w+/(?:image_processing|video_processing|feature_extraction)
    )
    """,
    re.VERBOSE,
)


def loads_data(name: str) -> bool:
    """True for operators and spans that fetch or prepare input data, such as `enumerate(DataLoader)`."""
    if _LOADERS.search(name):
        return True
    if "::" in name:  # torch's operators, and FSDP's spans
        return False
    return _function_loads_data(name)


def frame_loads_data(frame: str) -> bool:
    """True for Python functions, written as `file(line): function`, that fetch or prepare input data."""
    found = _FRAME.match(frame)
    if not found:
        return bool(_LOADERS.search(frame))
    return bool(_FILES.search(found["file"])) or loads_data(found["function"]) or bool(_LOADERS.search(found["file"]))


def _function_loads_data(name: str) -> bool:
    words = {word.lower() for word in _WORDS.findall(name)}

    def any_of(rule: re.Pattern[str]) -> bool:
        return any(rule.fullmatch(word) for word in words)

    if any_of(_OTHER):
        return False
    return words == {"data"} or any_of(_WHOLE) or (any_of(_VERB) and any_of(_NOUN) and len(words) > 1)


class LoadingTable(msgspec.Struct, frozen=True, eq=False):
    """Events of data loading and their nesting, sorted by (thread, start, longest first)."""

    forest: Forest
    thread: Ints32
    name: Ints
    """Index into the names of the trace, followed by the names of span groups."""

    def name_at(self, thread: Ints32, at_ns: Ints) -> Ints:
        """Return, for each query (thread, instant), the name of the innermost data-loading event, -1 for none."""
        if len(self.thread) == 0:
            return np.full(len(at_ns), -1, np.int64)
        found = innermost_at(self.forest, self.thread, thread, at_ns)
        return np.where(found >= 0, self.name[found], -1)


def loading_table(facts: Facts) -> LoadingTable:
    """Collect the operators and spans that load data."""
    trace, spans = facts.trace, facts.spans
    ops = [index for index in np.unique(trace.ops.name).tolist() if loads_data(trace.names[index])]
    groups = [index for index, name in enumerate(spans.groups) if loads_data(name)]
    op, span = np.flatnonzero(np.isin(trace.ops.name, ops)), np.flatnonzero(np.isin(spans.group, groups))
    start = np.concatenate((facts.ops.start_ns[op], spans.start_ns[span]))
    end = np.concatenate((facts.ops.end_ns[op], spans.end_ns[span]))
    thread = np.concatenate((trace.ops.thread[op], spans.thread[span]))
    name = np.concatenate((trace.ops.name[op].astype(np.int64), len(trace.names) + spans.group[span].astype(np.int64)))
    order = np.lexsort((-end, start, thread))
    return LoadingTable(forest=nest(start[order], end[order], thread[order]), thread=thread[order], name=name[order])
