"""Recognize data loading by the names of operators, spans and Python functions."""

import re

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
"""A word of a name in snake case, camel case or with other separators."""

_LOADERS = re.compile(
    r"data_?(?:load|set_?iter|fetch|iter|pipe|wait|prefetch)|prepare_data|(?:^|\W)dali(?:\W|$)", re.IGNORECASE
)
_VERB = re.compile(
    r"load(?:ing|er)?|read(?:ing)?|(?:pre)?fetch(?:ing|er)?|get|getitem|next|wait|open|parse|augment|collate|resize|crop"
    r"|sample"
)
_NOUN = re.compile(
    r"data|datasets?|(?:mini)?batch(?:es)?|images?|imgs?|jpegs?|videos?|audio|frames?|examples?|resize|crop|shard|tfrecord"
)
_MEDIA_VERB = re.compile(r"decode|transform|encode|convert|normalize|rescale")
_MEDIA = re.compile(r"images?|imgs?|jpegs?|videos?|audio|frames?|examples?")
"""Input data as files: what a network computes with is not decoded."""
_WHOLE = re.compile(r"augment(?:ations?)?|collate|preprocess(?:ing)?|prefetcher|dataloader")
"""Words that name data loading without a noun."""
_WHOLE_NAMES = ({"data"}, {"data", "time"}, {"loader"}, {"train", "loader"}, {"prefetch", "next"})
"""Words of names that mean data loading only if they stand alone."""
_SAMPLE_VERB = re.compile(r"load|read|fetch|get|parse")
"""With these, a sample is input data; elsewhere it may be a token that was drawn."""
_OTHER = re.compile(
    r"""
    weights? | params? | parameters? | checkpoint | model | experts? | layers? | module | kv | cache | fsdp | norm
    | grad | gradients? | kernel | plan | scheduler? | logits | outputs? | sampling | ptr | size | shape | d?type
    | device | state | info | metadata | stats | metrics | forward | backward | attention | loss | step | graph | memory
    | block | run | running | requests? | reqs? | prefill | tokens? | engine | server | decoder | encoder | features?
    | embeds? | embeddings? | hidden | index | indices | flag | lock | event
    """,
    re.VERBOSE,
)
"""Words that show that something other than input data is loaded or prepared."""

_FRAME = re.compile(r"^(?P<file>.+)\(\d+\): (?P<function>.+)$")
_LIBRARY = re.compile(r"(?:^|/)(?:torch/utils/data|torchdata|accelerate/data_loader|lightning/\w+/.*data)")
"""Files that only drive what fetches the data."""
_PLUMBING = re.compile(
    r"(?:^|/)(?:torch|multiprocessing|concurrent|asyncio|collections|ctypes|importlib|logging)/|^<|"
    r"(?:^|/)(?:abc|contextlib|copy|enum|functools|inspect|pickle|queue|random|selectors|socket|tempfile|threading|typing"
    r"|weakref)\.py\("
)
"""Functions that a library's loop calls to wait for its workers, or to call something else."""
_ITERATION = re.compile(r"__(?:next|iter|getitems?)__|next|get_?item")
"""Functions by which a loop gets its next value."""
_SOURCE = re.compile(r"loaders?|datasets?|data|(?:mini)?batch(?:es)?|sampler|reader|images?|videos?|corpus|shards?")
"""Words of a file's name that say that its values are input data."""
_ENGINES = re.compile(r"(?:^|/)(?:vllm|sglang|roseinfer|tensorrt_llm|lmdeploy)/(?!multimodal)")
"""Files of engines that serve language models: their batches and inputs are requests, not data that is loaded."""
_FOLDERS = {"data", "dataset", "datasets", "dataloaders", "data_loading"}
"""Folders whose files load data."""
_TRANSFORMS = {"transforms", "augmentation", "augmentations", "preprocessing"}
"""Folders and files that prepare data."""
_DRIVERS = re.compile(
    r"main|module|train(?:ing)?|fit|epochs?|bench(?:mark)?|forward|backward|step|generate|serve|infer"
)
"""Words of functions that run a whole program, whatever the name of its folder."""
_FILES = re.compile(
    r"""
    (?:^|/)(?:
        torchvision/(?:transforms|io|datasets)/ | torchaudio/(?:io|datasets|transforms) | torchcodec/ | webdataset/
      | streaming/base/ | litdata/ | ffcv/ | nvidia/dali/ | tensorflow_datasets/ | decord/ | av/ | PIL/ | cv2/
      | datasets/(?:arrow_dataset|iterable_dataset|formatting|features|table|builder)
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
    if "::" in name or name.startswith("roseinfer."):  # torch's operators, FSDP's spans, the engine's own spans
        return False
    if name == "Preprocess":  # vLLM's span around the preparation of a step
        return False
    return _words_load_data({word.lower() for word in _WORD.findall(name)})


def frame_loads_data(frame: str) -> bool:
    """True for Python functions, written as `file(line): function`, that fetch or prepare input data."""
    found = _FRAME.match(frame)
    if not found:
        return bool(_LOADERS.search(frame))
    file, function = found["file"], found["function"]
    if _ENGINES.search(file):
        return False
    if _LIBRARY.search(file) or _FILES.search(file) or loads_data(function):
        return True
    words = {word.lower() for word in _WORD.findall(function)}
    if any(_DRIVERS.fullmatch(word) for word in words):
        return False
    if _LOADERS.search(file) or (_ITERATION.fullmatch(function) and _is_source(file)):
        return True
    return _is_in_data_folder(file) and not any(_OTHER.fullmatch(word) for word in words)


def is_loader_library(frame: str) -> bool:
    """True for functions of libraries that drive data loading, such as torch's DataLoader."""
    found = _FRAME.match(frame)
    return found is not None and bool(_LIBRARY.search(found["file"]))


def is_plumbing(frame: str) -> bool:
    """True for functions that only pass on what others load: of torch, of threads, queues and processes."""
    return _PLUMBING.search(frame) is not None


def _is_source(file: str) -> bool:
    """True if the name of a Python file says that it holds input data: `my_dataset.py`, not `model_loader.py`."""
    words = {word.lower() for word in _WORD.findall(file.rsplit("/", 1)[-1].removesuffix(".py"))}
    return any(_SOURCE.fullmatch(word) for word in words) and not any(_OTHER.fullmatch(word) for word in words)


def _is_in_data_folder(file: str) -> bool:
    """True for files such as `detectron2/data/common.py`; a disk that is mounted at `/data` says nothing."""
    *folders, name = file.split("/")[2 if file.startswith("/") else 0 :] or [""]
    if "torch" in folders:
        return False
    return (bool(folders) and folders[-1] in _FOLDERS) or not _TRANSFORMS.isdisjoint(
        {*folders, name.removesuffix(".py")}
    )


def _words_load_data(words: set[str]) -> bool:
    def any_of(rule: re.Pattern[str]) -> bool:
        return any(rule.fullmatch(word) for word in words)

    if any_of(_OTHER):
        return False
    if words in _WHOLE_NAMES or any_of(_WHOLE):
        return True
    if words & {"sample", "samples"} and any_of(_SAMPLE_VERB):
        return True
    return len(words) > 1 and ((any_of(_VERB) and any_of(_NOUN)) or (any_of(_MEDIA_VERB) and any_of(_MEDIA)))
