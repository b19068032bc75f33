"""Every wrong call exits with code 2 and every failed run with code 1, after one clear line on stderr."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command import ENVIRONMENT, command, roseinfer, succeeds

GENERATE = ["generate", "hi", "--model", "{tiny}"]
PROFILE = ["profile", "--prompt", "hi", "--model", "{tiny}", "--max-new-tokens", "2", "--profile-dir", "{tmp}/p"]

WRONG_CALLS = {
    "an unknown command": (["generat"], 2, "generat"),
    "an unknown flag": ([*GENERATE, "--topk", "3"], 2, "--topk"),
    "a flag that only another command has": ([*GENERATE, "--active", "3"], 2, "--active"),
    "a word for a number": ([*GENERATE, "--top-k", "many"], 2, "--top-k"),
    "an unknown model name": (["generate", "hi", "--model", "no-such-model"], 2, "no-such-model"),
    "a shape without dummy weights": (["generate", "hi", "--model", "gpt2"], 2, "--load-format dummy"),
    "a missing model file": (["generate", "hi", "--model", "{tmp}/none.gguf"], 2, "none.gguf"),
    "a file that is no GGUF": (["generate", "hi", "--model", "{text}"], 1, "not a GGUF file"),
    "a directory without safetensors": (["generate", "hi", "--model", "{tmp}"], 1, "no .safetensors"),
    "a file that is no safetensors": (["generate", "hi", "--model", "{broken}"], 1, "model.safetensors"),
    "a missing prompts file": (["generate", "--prompts-file", "{tmp}/none.txt", "--model", "{tiny}"], 2, "none.txt"),
    "an empty prompts file": (["generate", "--prompts-file", "{blank}", "--model", "{tiny}"], 2, "no prompts"),
    "prompts and a prompts file": ([*GENERATE, "--prompts-file", "{text}"], 2, "choose one"),
    "both as options": (["bench", "--model", "{tiny}", "--prompt", "a", "--prompts-file", "{text}"], 2, "choose one"),
    "a prompts file that is no text": (["generate", "--prompts-file", "{binary}", "--model", "{tiny}"], 2, "UTF-8"),
    "an empty workload": (["bench", "--config", "{empty}", "--model", "{tiny}"], 2, "no prompt"),
    "a missing config file": (["bench", "--config", "{tmp}/none.toml"], 2, "none.toml"),
    "an unknown shipped config": (["bench", "--config", "fast"], 2, "tutorial-gpt2"),
    "a config that is no TOML": (["bench", "--config", "{badtoml}"], 2, "not valid TOML"),
    "an unknown config key": (["bench", "--config", "{badkey}"], 2, "engine.modle"),
    "an unknown config table": (["bench", "--config", "{badtable}"], 2, "engines"),
    "a config value of another type": (["bench", "--config", "{badtype}"], 2, "engine.max_batch_size"),
    "an unknown dtype": ([*GENERATE, "--dtype", "float8"], 2, "float8"),
    "an unknown device": ([*GENERATE, "--device", "tpu"], 2, "tpu"),
    "a GPU that is not there": ([*GENERATE, "--device", "cuda:99"], 2, "cuda:99"),
    "an unknown mode": ([*GENERATE, "--mode", "fast"], 2, "fast"),
    "a negative top-k": ([*GENERATE, "--top-k", "-1"], 2, "--top-k -1"),
    "a top-p of 0": ([*GENERATE, "--top-p", "0"], 2, "--top-p 0"),
    "a temperature that is no number": ([*GENERATE, "--temperature", "nan"], 2, "--temperature nan"),
    "a negative completion length": ([*GENERATE, "--max-new-tokens", "-1"], 2, "--max-new-tokens -1"),
    "a batch of nothing": ([*GENERATE, "--max-batch-size", "0"], 2, "--max-batch-size 0"),
    "a bound of no time": ([*GENERATE, "--max-itl-ms", "0"], 2, "invalid --max-itl-ms 0.0: give a number above 0"),
    "blocks of nothing": ([*GENERATE, "--block-size", "0"], 2, "--block-size 0"),
    "sampling at temperature 0": ([*GENERATE, "--do-sample", "--temperature", "0"], 2, "temperature 0"),
    "a filter of greedy tokens": ([*GENERATE, "--top-k", "3"], 2, "--top-k does nothing at temperature 0"),
    "a filter of tokens made greedy": (
        ["bench", "--config", "tutorial-gpt2", "--temperature", "0", "--min-p", "0.1"],
        2,
        "--min-p",
    ),
    "CUDA graphs on a CPU": ([*GENERATE, "--device", "cpu", "--cuda-graphs"], 2, "--cuda-graphs is for a GPU"),
    "launches of several steps on a CPU": ([*PROFILE, "--device", "cpu", "--max-decode-steps", "4"], 2, "for a GPU"),
    "prompts in two ways": ([*GENERATE, "--prompt", "ho"], 2, "choose one way"),
    "token ids with a word": (
        ["generate", "ids:1,2,x", "--model", "{tiny}"],
        2,
        "invalid prompt 'ids:1,2,x': give token ids",
    ),
    "token ids that end in a comma": (["generate", "--prompt", "ids:1,", "--model", "{tiny}"], 2, "like ids:1,2,3"),
    "no token ids": (["generate", "ids:", "--model", "{tiny}"], 2, "like ids:1,2,3"),
    "a context beyond the model's": ([*GENERATE, "--max-model-len", "129"], 2, "128"),
    "a prompt longer than the context": (["generate", "x" * 129, "--model", "{tiny}"], 2, "129 tokens"),
    "a benchmark of nothing": (["bench", "--model", "{tiny}", "--prompt", "a", "--max-new-tokens", "0"], 2, "0"),
    "a profile of nothing": ([*PROFILE, "--max-new-tokens", "0"], 2, "--max-new-tokens 0 leaves no step to profile"),
    "a profile without active steps": ([*PROFILE, "--active", "0"], 2, "--active 0"),
    "a profile directory below a file": ([*PROFILE, "--profile-dir", "{text}/profiles"], 1, "profile directory"),
    "a missing trace": (["summarize", "{tmp}/none.json"], 1, "none.json"),
    "a trace that is none": (["summarize", "{binary}"], 1, "bytes.bin"),
}


@pytest.fixture(scope="module")
def places(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths for the placeholders in WRONG_CALLS."""
    folder = tmp_path_factory.mktemp("wrong")
    files = {
        "text": ("text.txt", b"Just some words.\n"),
        "blank": ("blank.txt", b"\n  \n"),
        "binary": ("bytes.bin", b"\x80\x81\xff" * 40),
        "empty": ("empty.toml", b"[sampling]\nmax_new_tokens = 1\n"),
        "badtoml": ("badtoml.toml", b"[engine\n"),
        "badkey": ("badkey.toml", b'[engine]\nmodle = "gpt2"\n'),
        "badtable": ("badtable.toml", b'[engines]\nmodel = "gpt2"\n'),
        "badtype": ("badtype.toml", b'[engine]\nmax_batch_size = "eight"\n'),
    }
    found = {"tiny": tiny_llama, "tmp": folder / "empty", "broken": folder / "broken"}
    for key, (name, content) in files.items():
        found[key] = folder / name
        found[key].write_bytes(content)
    for key in ("tmp", "broken"):
        found[key].mkdir()
    (found["broken"] / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    (found["broken"] / "model.safetensors").write_bytes(b"not safetensors at all")
    return found


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_one_line_says_what_is_wrong(case: str, places: dict[str, Path]) -> None:
    arguments, exit_code, hint = WRONG_CALLS[case]
    done = roseinfer(*(argument.format(**places) for argument in arguments))
    assert done.returncode == exit_code
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert hint in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [["bench", "--turns", 0], ["profile", "--top", 0], ["bench", "--n", 0]])
def test_a_wrong_flag_is_not_blamed_on_the_file_below_it(arguments: list[object]) -> None:
    done = roseinfer(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: invalid {arguments[1]} 0: give an integer of at least 1")


def test_flags_that_a_config_or_a_line_makes_sense_of_are_taken(tiny_llama: Path, tmp_path: Path) -> None:
    """Keys of a shared file may have no effect in this run, and flags that repeat the default are accepted."""
    file = tmp_path / "run.toml"
    file.write_text("[sampling]\ntop_k = 3\nmax_new_tokens = 2\n[engine]\ncuda_graphs = true\nmax_decode_steps = 4\n")
    call = ["generate", "--config", file, "--model", tiny_llama, "--device", "cpu"]
    lines = '{"prompt": "a", "temperature": 1}\n'
    requests = tmp_path / "requests.jsonl"
    requests.write_text(lines)
    succeeds("bench", *call[1:], "--prompts-file", requests, "--top-p", 0.5, "--repeats", 1)
    for arguments, stdin in (
        (["hi"], ""),
        (["hi", "--top-k", 0, "--top-p", 1], ""),
        (["hi", "--no-cuda-graphs", "--max-decode-steps", 1, "--overlap"], ""),
        (["hi", "--top-p", 0.5, "--do-sample"], ""),
        (["--input", "-", "--top-p", 0.5], lines),
    ):
        succeeds(*call, *arguments, stdin=stdin)


def test_debug_shows_where_it_happened() -> None:
    done = roseinfer("bench", "--config", "none.toml", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: config file none.toml does not exist"


def test_a_wrong_call_prints_no_half_document() -> None:
    done = roseinfer("generate", "hi", "--model", "no-such-model", "--json")
    assert (done.returncode, done.stdout) == (2, "")


def test_prompts_on_stdin_that_are_no_text_are_refused_in_one_line(tiny_llama: Path) -> None:
    done = roseinfer("generate", "--model", tiny_llama, stdin=b"caf\xe9")
    assert (done.returncode, done.stdout) == (2, "")
    assert "UTF-8" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("flag", ["--top-k", "--seed"])
def test_a_number_beyond_64_bits_is_refused_in_one_line(flag: str, tiny_llama: Path) -> None:
    done = roseinfer("generate", "hi", "--model", tiny_llama, "--temperature", "1", flag, 2**70)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


FULL = Path("/dev/full")
TRACE = Path(__file__).parents[1] / "trace" / "data" / "origin_gather_decode_h200.json.gz"


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["generate", "hi"], ["generate", "hi", "--json"], ["generate", "--input", "-"]])
def test_a_completion_that_does_not_fit_on_the_disk_is_one_line(arguments: list[str], tiny_llama: Path) -> None:
    assert_one_line_on_a_full_disk(*arguments, "--model", tiny_llama, "--quiet")


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["summarize", TRACE], ["summarize", TRACE, "--json"], ["--help"], ["--version"]])
def test_output_that_does_not_fit_on_the_disk_is_one_line(arguments: list[object]) -> None:
    assert_one_line_on_a_full_disk(*arguments)


def assert_one_line_on_a_full_disk(*arguments: object) -> None:
    with FULL.open("wb") as full:
        done = subprocess.run(
            command(*arguments),
            input=b'{"prompt": "a"}\n',
            stdout=full,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            check=False,
        )
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: cannot write")
    assert line.endswith(": No space left on device")
    assert done.returncode == 1


def test_a_closed_stdout_is_no_error(tiny_llama: Path) -> None:
    call = command("generate", "hi", "--model", tiny_llama, "--max-new-tokens", 2, "--quiet")
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *call], stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_cannot_be_written_changes_no_exit_code(stderr: str) -> None:
    for arguments, code in ((["summarize", "none.json"], 1), (["summarize", str(TRACE), "--quiet"], 0), (["wrong"], 2)):
        call = ["sh", "-c", f'"$@" {stderr}', "sh", *command(*arguments)]
        assert subprocess.run(call, stdout=subprocess.DEVNULL, env=ENVIRONMENT, check=False).returncode == code


def test_ctrl_c_while_the_command_line_is_imported_ends_in_silence() -> None:
    process = subprocess.Popen(
        [sys.executable, "-v", *command("--help")[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:  # -v prints a line per module
        if "import 'typer" in line:
            process.send_signal(signal.SIGINT)
            break
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "KeyboardInterrupt" not in stderr
