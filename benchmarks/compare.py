"""Compare roseinfer with other installed engines on the same workload, weights and machine.

    python benchmarks/compare.py --config latency
    python benchmarks/compare.py --config small-engines-gpt2 --peers transformers --rounds 3

Each engine runs in its own process. The engines take turns, for `--rounds` rounds. All receive the same prompts, as
token ids, and the same weights: the given Hugging Face directory, or an export of the weights that roseinfer loaded.
roseinfer and llama.cpp read a GGUF file directly, in its quantized form; --dtype and --quantize override that for
roseinfer. Decoding is greedy and ignores EOS. Prints speed ratios and the agreement of the greedy completions.
--record writes a record to benchmarks/results.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, stdev
from typing import Any

STARTED_S = time.perf_counter()

import msgspec  # noqa: E402
from contenders import CONTENDERS, Job, Outcome, Pass, installed, run_contender  # noqa: E402
from record_option import add_record_options, check_record_options, write_record  # noqa: E402

LEAST_AGREEMENT = 0.9
"""Minimum share of leading completion tokens that agree; below it, two engines probably ran different models."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one engine over all its timed passes."""

    version: str
    settings: str
    startup_s: float
    completion_tokens_per_s: float
    """Median over passes."""
    completion_tokens_per_s_std: float
    completion_tokens_per_s_best: float
    """Maximum over passes: the pass that other work on the machine disturbed least."""
    ttft_ms: float | None
    """Median over requests and passes."""
    tpot_ms: float | None
    requests_that_agree_percent: float
    """Percentage of requests with exactly roseinfer's completion tokens."""
    leading_tokens_that_agree_percent: float
    """Percentage of completion tokens that precede the first difference from roseinfer's completion."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON document that --record writes."""

    command: str
    date: str
    note: str | None
    environment: dict[str, Any]
    workload: dict[str, Any]
    engines: dict[str, Figures]
    ratios: dict[str, dict[str, float]]
    """Ratio of roseinfer to each other engine, by figure; above 1, roseinfer is faster."""


def main() -> None:
    arguments = _arguments()
    if arguments.worker is not None:
        name, job_file, outcome_file = arguments.worker
        job = msgspec.json.decode(Path(job_file).read_bytes(), type=Job)
        Path(outcome_file).write_bytes(msgspec.json.encode(run_contender(name, job, STARTED_S)))
        return
    with tempfile.TemporaryDirectory(prefix="roseinfer-compare-") as folder:
        work = Path(folder)
        job, environment, workload = _prepare(arguments, work)
        outcomes = _run_all(_contenders(arguments, job), job, arguments.rounds, work)
    record = _record(arguments, environment, workload, job, outcomes)
    _print(record)
    name = f"{Path(arguments.config).stem}-{job.device.partition(':')[0]}.json"
    write_record(arguments, name, msgspec.json.format(msgspec.json.encode(record), indent=2).decode() + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="latency", help="shipped config or TOML file [default: %(default)s]")
    parser.add_argument("--model", help="model that replaces the config's")
    parser.add_argument("--load-format", help="weight format; `dummy` draws random weights")
    parser.add_argument("--device", help="cpu, cuda, cuda:N or auto")
    parser.add_argument("--dtype", help="dtype of weights and activations in every engine")
    parser.add_argument("--quantize", help="quantization of roseinfer's weights: auto, none, int8 or int4")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="use roseinfer's compiled CPU kernels")
    parser.add_argument("--num-requests", type=int, help="number of requests [default: the config's]")
    parser.add_argument("--prompt-length", type=int, help="tokens per prompt of random ids [default: the config's]")
    parser.add_argument("--max-new-tokens", type=int, help="tokens per completion, at least 2 [default: the config's]")
    parser.add_argument("--max-batch-size", type=int, help="maximum requests per step in every engine")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=[name for name in CONTENDERS if name != "roseinfer"],
        help="engines to compare with [default: all that are installed]",
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed passes per process [default: %(default)s]")
    parser.add_argument("--rounds", type=int, default=1, help="processes per engine [default: %(default)s]")
    parser.add_argument("--note", help="remark stored in the record")
    add_record_options(parser, "CONFIG-DEVICE.json")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    check_record_options(parser, arguments)
    return arguments


def _prepare(arguments: argparse.Namespace, work: Path) -> tuple[Job, dict[str, Any], dict[str, Any]]:
    """Return the job for all engines, the environment and the workload's description.

    Draws the workload and exports the weights. Each measuring process loads its own engine later.
    """
    from shared_weights import export, num_threads

    from roseinfer.config_file import load_config
    from roseinfer.engine.device import device_name
    from roseinfer.engine.factory import build_engine
    from roseinfer.models.shapes import SHAPES
    from roseinfer.weights.resolve import resolve
    from roseinfer.workload.load_plan import plan_load
    from roseinfer.workload.provenance import current_versions

    engine_flags = ("model", "load_format", "device", "dtype", "quantize", "max_batch_size", "compile")
    flags = {"engine": engine_flags, "workload": ("num_requests", "prompt_length"), "sampling": ("max_new_tokens",)}
    overrides = {
        table: {key: value for key in keys if (value := getattr(arguments, key)) is not None}
        for table, keys in flags.items()
    }
    config = load_config(arguments.config, overrides)
    engine = build_engine(msgspec.structs.replace(config.engine, quantize="none"))
    load = plan_load(config.workload, config.sampling, engine)
    source = resolve(config.engine.model, config.engine.load_format, SHAPES)
    is_directory = source.path is not None and source.path.is_dir() and source.format != "dummy"
    model_dir = source.path if is_directory else export(engine, work / "model")
    exported = {"model": str(model_dir), "load_format": "auto", "dtype": engine.dtype_name}
    job = Job(
        model_dir=str(model_dir),
        gguf=str(source.path) if source.format == "gguf" else None,
        dtype=engine.dtype_name,
        device=str(engine.runner.device),
        threads=num_threads(),
        max_batch_size=engine.limits.max_batch_size,
        max_model_len=min(
            engine.max_model_len,
            max(len(engine.encode(request.prompt)) + request.params.max_new_tokens for request in load),
        ),
        engine=msgspec.structs.asdict(config.engine) | ({} if source.format == "gguf" else exported),
        mode=config.workload.mode,
        prompts=[engine.encode(request.prompt) for request in load],
        max_new_tokens=[request.params.max_new_tokens for request in load],
        repeats=arguments.repeats,
    )
    environment = {
        "versions": msgspec.to_builtins(current_versions()),
        "device": device_name(engine.runner.device),
        "threads": job.threads,
    }
    workload = {
        "config": arguments.config,
        "model": engine.model_name,
        "parameters": engine.num_parameters,
        "dtype": job.dtype,
        "mode": job.mode,
        "max_batch_size": job.max_batch_size,
        "requests": len(load),
        "prompt_tokens": sum(map(len, job.prompts)),
        "completion_tokens": sum(job.max_new_tokens),
        "repeats": arguments.repeats,
        "rounds": arguments.rounds,
    }
    return job, environment, workload


def _contenders(arguments: argparse.Namespace, job: Job) -> list[str]:
    """Return the engines to run: roseinfer, then those of --peers or, by default, all installed peers."""
    peers = arguments.peers
    if peers is None:
        peers = [name for name in CONTENDERS if name != "roseinfer" and installed(name)]
    if "llama-cpp-python" in peers and job.gguf is None:
        print("skipping llama-cpp-python: it needs a GGUF model")
        peers = [name for name in peers if name != "llama-cpp-python"]
    return ["roseinfer", *peers]


def _run_all(names: list[str], job: Job, rounds: int, work: Path) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {name: [] for name in names}
    job_file, outcome_file = work / "job.json", work / "outcome.json"
    job_file.write_bytes(msgspec.json.encode(job))
    for turn in range(rounds):
        for name in names:
            print(f"round {turn + 1} of {rounds}: {name}", flush=True)
            command = [sys.executable, __file__, "--worker", name, str(job_file), str(outcome_file)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{name} failed with exit code {done.returncode}:\n{done.stdout}")
            outcomes[name].append(msgspec.json.decode(outcome_file.read_bytes(), type=Outcome))
    return outcomes


def _record(
    arguments: argparse.Namespace,
    environment: dict[str, Any],
    workload: dict[str, Any],
    job: Job,
    outcomes: dict[str, list[Outcome]],
) -> Record:
    ours = outcomes["roseinfer"][-1].completions
    engines = {name: _figures(runs, job, ours) for name, runs in outcomes.items()}
    return Record(
        command=shlex.join(["python", "benchmarks/compare.py", *sys.argv[1:]]),
        date=time.strftime("%Y-%m-%d"),
        note=arguments.note,
        environment=environment,
        workload=workload,
        engines=engines,
        ratios={name: _ratios(engines["roseinfer"], peer) for name, peer in engines.items() if name != "roseinfer"},
    )


def _figures(runs: list[Outcome], job: Job, ours: list[list[int]]) -> Figures:
    passes: list[Pass] = [each for run in runs for each in run.passes]
    tokens = sum(job.max_new_tokens)
    rates = [tokens / each.elapsed_s for each in passes]
    same = [_agreeing(mine, other) for mine, other in zip(ours, runs[-1].completions, strict=True)]
    equal = sum(mine == other for mine, other in zip(ours, runs[-1].completions, strict=True))
    return Figures(
        version=runs[0].version,
        settings=runs[0].settings,
        startup_s=median(run.startup_s for run in runs),
        completion_tokens_per_s=median(rates),
        completion_tokens_per_s_std=stdev(rates) if len(rates) > 1 else 0.0,
        completion_tokens_per_s_best=max(rates),
        ttft_ms=_median_ms([value for each in passes for value in each.ttft_s or ()]),
        tpot_ms=_median_ms([value for each in passes for value in each.tpot_s or ()]),
        requests_that_agree_percent=100 * equal / len(ours),
        leading_tokens_that_agree_percent=100 * sum(same) / tokens,
    )


def _agreeing(mine: list[int], other: list[int]) -> int:
    """Return the number of tokens before the first difference."""
    for index, (a, b) in enumerate(zip(mine, other, strict=False)):
        if a != b:
            return index
    return min(len(mine), len(other))


def _median_ms(values_s: list[float]) -> float | None:
    return median(values_s) * 1e3 if values_s else None


def _ratios(ours: Figures, peer: Figures) -> dict[str, float]:
    rates = ("completion_tokens_per_s", "completion_tokens_per_s_best")
    ratios = {name: getattr(ours, name) / getattr(peer, name) for name in rates}
    for name in ("ttft_ms", "tpot_ms", "startup_s"):
        mine, theirs = getattr(ours, name), getattr(peer, name)
        if mine and theirs:
            ratios[name] = theirs / mine
    return ratios


def _print(record: Record) -> None:
    columns = (
        "engine",
        "version",
        "tokens/s",
        "best",
        "TTFT, ms",
        "TPOT, ms",
        "ready, s",
        "same completions",
        "same start",
    )
    rows = [columns]
    for name, figures in record.engines.items():
        rows.append(
            (
                name,
                figures.version,
                f"{figures.completion_tokens_per_s:.1f} ± {figures.completion_tokens_per_s_std:.1f}",
                f"{figures.completion_tokens_per_s_best:.1f}",
                *("-" if value is None else f"{value:.1f}" for value in (figures.ttft_ms, figures.tpot_ms)),
                f"{figures.startup_s:.1f}",
                f"{figures.requests_that_agree_percent:.0f} %",
                f"{figures.leading_tokens_that_agree_percent:.0f} %",
            )
        )
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for name, ratios in record.ratios.items():
        print(f"roseinfer over {name}: " + ", ".join(f"{what} {ratio:.2f}x" for what, ratio in ratios.items()))
    for name, figures in record.engines.items():
        if figures.leading_tokens_that_agree_percent < 100 * LEAST_AGREEMENT:
            print(
                f"{name} and roseinfer agree on too few leading tokens: nearly equal logits were ordered differently, "
                "or the models differ"
            )


if __name__ == "__main__":
    main()
