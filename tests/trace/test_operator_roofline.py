"""Operators are compared with the peaks of their device, and products without tensor cores are named."""

import json
from pathlib import Path
from typing import Any

import pytest
from traces import event, kernel, launch

from roseinfer.errors import UsageError
from roseinfer.trace import Summary, summarize_trace
from roseinfer.trace.device_peaks import known_peaks, parse_peaks


def product(
    folder: Path, device: str, kind: str, us: float, name: str, dims: Any = None, peak: str | None = None
) -> Summary:
    """Summarize a trace of ten products whose kernel has a name and a duration."""
    dims = dims or [[4096, 4096], [4096, 4096]]
    events: list[dict[str, Any]] = []
    for index in range(10):
        at = index * (us + 10)
        inputs = {"Input Dims": dims, "Input type": [kind, kind]}
        events += [event("cpu_op", "aten::mm", at, 8, args=inputs), launch(at + 1, 2, index + 1)]
        events.append(kernel(at + 5, us, index + 1, name))
    path = folder / "t.json"
    path.write_text(json.dumps({"deviceProperties": [{"id": 0, "name": device}], "traceEvents": events}))
    return summarize_trace(path, peak=peak)


def test_a_product_is_compared_with_the_peak_of_its_device(tmp_path: Path) -> None:
    summary = product(tmp_path, "NVIDIA H100 80GB HBM3", "c10::BFloat16", 278, "nvjet_hsh_128x256")
    found = summary.operators[0].roofline
    assert found is not None
    assert (found.flops, found.bytes) == (10 * 2 * 4096**3, 10 * 3 * 2 * 4096**2)
    assert (found.bound, found.bound_ms) == ("compute", pytest.approx(10 * 2 * 4096**3 / 989e12 * 1000, abs=1e-6))
    assert found.percent == pytest.approx(50, abs=0.1)
    assert found.saves_ms == pytest.approx(2.78 - found.bound_ms / 0.8, abs=1e-6)
    assert summary.peaks is not None
    assert summary.peaks.device == "H100 SXM"
    (far,) = [finding for finding in summary.findings if finding.id == "far_from_bound"]
    assert summary.verdict.kind == "gpu_bound"
    assert summary.verdict.evidence.count(far.sentence) == 1


def test_a_product_of_few_rows_is_bound_by_memory(tmp_path: Path) -> None:
    dims = [[16, 4096], [4096, 4096]]
    found = product(tmp_path, "NVIDIA H200", "c10::BFloat16", 60, "nvjet", dims).operators[0].roofline
    assert found is not None
    assert (found.bound, found.bound_ms) == ("memory", pytest.approx(10 * found.bytes / 10 / 4.8e12 * 1000, abs=1e-6))


def test_products_in_float32_without_tensor_cores_are_named(tmp_path: Path) -> None:
    summary = product(tmp_path, "NVIDIA H100", "float", 4900, "ampere_sgemm_128x64_nn")
    first = summary.findings[0]
    assert (first.id, first.where.operator, first.where.kernel) == (
        "no_tensor_cores",
        "aten::mm",
        "ampere_sgemm_128x64_nn",
    )
    assert first.saves_ms == pytest.approx(49 - 10 * 2 * 4096**3 / (989e12 / 2) * 1000 / 0.8, abs=1e-5)
    assert first.sentence in summary.verdict.evidence
    assert any("TF32 takes 3.5 ms in place of 49.0 ms" in line for line in summary.verdict.advice)
    on_cores = product(tmp_path, "NVIDIA H100", "float", 4900, "sm90_xmma_gemm_tf32tf32_f32_tn_n")
    assert "no_tensor_cores" not in {finding.id for finding in on_cores.findings}


def test_an_old_device_is_told_to_use_half_precision(tmp_path: Path) -> None:
    summary = product(tmp_path, "Tesla V100-SXM2-32GB", "float", 4900, "volta_sgemm_128x64_nn")
    assert any("in float16" in line for line in summary.verdict.advice)
    assert summary.operators[0].roofline is not None
    assert summary.operators[0].roofline.bound is None


def test_advice_on_tensor_cores_leaves_open_what_an_unknown_device_has(tmp_path: Path) -> None:
    summary = product(tmp_path, "NVIDIA Z9", "float", 4900, "ampere_sgemm_128x64_nn")
    assert any("as far as the device has them: torch.set_float32" in line for line in summary.verdict.advice)


def test_no_share_is_invented_for_an_unknown_device(tmp_path: Path) -> None:
    summary = product(tmp_path, "NVIDIA Z9", "c10::BFloat16", 278, "nvjet")
    found = summary.operators[0].roofline
    assert found is not None
    assert (found.flops > 0, found.bound, found.percent, found.saves_ms) == (True, None, None, None)
    assert any("No peak is known for products in bfloat16 on NVIDIA Z9" in note.message for note in summary.trust)
    given = product(tmp_path, "NVIDIA Z9", "c10::BFloat16", 278, "nvjet", peak="494.5,3.35")
    assert given.operators[0].roofline is not None
    assert given.operators[0].roofline.percent == pytest.approx(100, abs=0.1)
    assert not any("No peak" in note.message for note in given.trust)


@pytest.mark.parametrize(
    ("device", "memory", "tflops", "tb_per_s"),
    [
        ("Tesla V100-DGXS-32GB", 0, 125, 0.9),
        ("Tesla T4", 0, 65, 0.32),
        ("NVIDIA A100-SXM4-40GB", 0, 312, 1.56),
        ("NVIDIA A100-SXM4-80GB", 0, 312, 2.04),
        ("NVIDIA A100-PG509-200", 85_000_000_000, 312, 2.04),
        ("NVIDIA L4", 0, 121, 0.3),
        ("NVIDIA L40S", 0, 362, 0.86),
        ("NVIDIA H100 PCIe", 0, 756, 2.0),
        ("NVIDIA H100 80GB HBM3", 0, 989, 3.35),
        ("NVIDIA H200", 0, 989, 4.8),
        ("NVIDIA H100 NVL", 0, 835, 3.9),
        ("NVIDIA H200 NVL", 0, 835, 4.8),
        ("NVIDIA H20", 0, 148, 4.0),
        ("NVIDIA GH200 480GB", 0, 989, 4.0),
        ("NVIDIA GH200 144G HBM3e", 0, 989, 4.9),
        ("NVIDIA B200", 0, 2250, 8.0),
        ("NVIDIA GB200", 0, 2500, 8.0),
        ("NVIDIA B300 SXM6 AC", 0, 2250, 8.0),
        ("NVIDIA A10", 0, 125, 0.6),
        ("NVIDIA A10G", 0, 70, 0.6),
        ("NVIDIA A30", 0, 165, 0.93),
        ("NVIDIA A40", 0, 149, 0.7),
        ("NVIDIA RTX A6000", 0, 154, 0.77),
        ("NVIDIA RTX 6000 Ada Generation", 0, 364, 0.96),
        ("NVIDIA GeForce RTX 3090", 0, 71, 0.94),
        ("NVIDIA GeForce RTX 4090", 0, 165, 1.01),
        ("NVIDIA GeForce RTX 5090", 0, 209, 1.79),
        ("AMD Instinct MI250X", 0, 383, 3.28),
        ("AMD Instinct MI300X", 0, 1307, 5.3),
        ("AMD Instinct MI325X", 0, 1307, 6.0),
        ("AMD Instinct MI350X", 0, 2307, 8.0),
        ("AMD Instinct MI355X", 0, 2517, 8.0),
    ],
)
def test_known_devices(device: str, memory: int, tflops: float, tb_per_s: float) -> None:
    found = known_peaks(device, memory)
    assert found is not None
    assert (found.tflops, found.tb_per_s) == (tflops, tb_per_s)


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA GB300",
        "NVIDIA L40",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "",
    ],
)
def test_other_devices_are_not_guessed(device: str) -> None:
    assert known_peaks(device) is None


@pytest.mark.parametrize("text", ["989", "fast,3", "989,3.35,1", "0,3", "-1,3", "nan,3", ""])
def test_wrong_peaks_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid --peak"):
        parse_peaks(text)
