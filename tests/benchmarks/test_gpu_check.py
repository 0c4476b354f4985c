"""Trust D21: benchmarks/gpu_check.py on a CPU: its steps at reduced size, JSON and tables."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import gpu_check  # noqa: E402


def check(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(FOLDER / "gpu_check.py"), "--device", "cpu", *words]
    return subprocess.run(
        [*command, "--output", str(folder)], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_steps_are_compared_measured_and_written(tmp_path: Path) -> None:
    done = check(tmp_path, "--only", "models", "library", "operations", "training")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))["steps"]
    assert [step["status"] for step in steps.values()] == ["done"] * 4
    models = steps["models"]["rows"]
    assert {row["type"] for row in models} == {"float64", "float32", "bfloat16"}
    assert all(row["equal"] is True for row in models)
    kernels = steps["library"]["rows"]
    assert [row["cell"] for row in kernels] == ["linear_attention", "kda"]
    assert all(row["equal"] is True for row in kernels)
    trained = {row["cell"]: row for row in steps["training"]["rows"]}["170m transformer"]
    flops = {row["cell"]: row for row in steps["operations"]["rows"]}["170m transformer"]
    assert trained["tokens/s"] > 0
    assert trained["TFLOP/s"] == pytest.approx(
        trained["tokens/s"] * flops["FLOP a token"] / 1e12, rel=1e-6
    )
    tables = (tmp_path / "gpu_check.md").read_text(encoding="utf-8")
    assert "## training" in tables
    assert "| 170m transformer |" in tables
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu_check.json", "gpu_check.md"]


def test_a_step_that_fails_or_lasts_keeps_its_rows_and_the_next_one_runs(tmp_path: Path) -> None:
    (tmp_path / "fake_steps.py").write_text(
        "import time\n"
        "def breaks(job):\n"
        "    '''Breaks.'''\n"
        "    yield {'cell': 'first', 'value': 1}\n"
        "    raise ValueError('no such kernel')\n"
        "def lasts(job):\n"
        "    '''Lasts.'''\n"
        "    yield {'cell': 'first', 'value': 'soon'}\n"
        "    yield {'cell': 'first', 'value': 2}\n"
        "    time.sleep(60)\n"
        "def differs(job):\n"
        "    '''Differs.'''\n"
        "    yield {'cell': 'first', 'type': 'float32', 'equal': False}\n",
        encoding="utf-8",
    )
    script = tmp_path / "gpu_check.py"
    script.write_text((FOLDER / "gpu_check.py").read_text(encoding="utf-8"), encoding="utf-8")
    ours = "((Step('breaks', 'fake_steps', 30),), (Step('lasts', 'fake_steps', 6),), "
    ours += "(Step('differs', 'fake_steps', 30),))\n"
    text = script.read_text(encoding="utf-8")
    start, end = text.index("PHASES = ("), text.index("\n\n\nclass Check")
    script.write_text(text[:start] + "PHASES = " + ours + text[end:], encoding="utf-8")
    (tmp_path / "gpu_job.py").write_text((FOLDER / "gpu_job.py").read_text(encoding="utf-8"))
    done = subprocess.run(
        [sys.executable, str(script), "--device", "cpu", "--output", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    steps = json.loads((tmp_path / "out" / "gpu_check.json").read_text(encoding="utf-8"))["steps"]
    assert steps["breaks"]["status"] == "failed: ValueError: no such kernel"
    assert steps["breaks"]["rows"] == [{"cell": "first", "value": 1}]
    assert steps["lasts"]["status"] == "cut off after 6 s"
    assert steps["lasts"]["rows"] == [{"cell": "first", "value": 2}]
    assert steps["differs"]["status"] == "done"
    assert "| first | float32 | NO |" in gpu_check.as_markdown(steps)
