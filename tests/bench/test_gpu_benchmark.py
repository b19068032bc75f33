"""The tables of `python -m benchmarks.gpu`, from results of the scripted engine."""

import msgspec
from scripted_results import results

from benchmarks.gpu import figures, parts, prompt_record, table
from roseinfer.engine.limits import StepLimits


def test_a_row_of_prompts_has_first_token_and_rates() -> None:
    measured = msgspec.structs.replace(results([0.01, 0.01]), limits=StepLimits(8, 64))
    row = {"name": "m, 1 x 4 + 11", **figures(msgspec.to_builtins(measured))}
    assert (row["median_step_ms"], row["prefill_steps"]) == (10.0, 1)
    record = prompt_record([row, {"name": "other", "error": "no memory"}], repeats=2)
    titles, _, cells = (line.split(" | ") for line in table("prompts", [row]).splitlines())
    assert dict(zip(titles, cells, strict=True))["first token, ms"] == str(row["ttft_ms"])
    assert "| other | no memory |" in record
    assert "torch" in record.splitlines()[4]
    titles, _, cells = (line.split(" | ") for line in table("online", [row]).splitlines())
    assert dict(zip(titles, cells, strict=True))["ITL p99, ms"] == "10.0"


def test_every_configuration_has_its_own_name_and_options() -> None:
    names = list(parts()["prompts"])
    assert len(set(names)) == 7
    assert "qwen3-0.6b, 16 x 4,096 + 64" in names
    assert list(parts()["online"]) == ["llama-3-8b, 14 requests/s, ITL at most 100 ms"]
    assert len(parts()["experts"]) == 7
    every = [tuple(options) for configurations in parts().values() for options in configurations.values()]
    assert len(set(every)) == len(every)
