"""Speed steps of gpu_check.py: rates of the card, training steps, a long read, the main command."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import newton_schulz_kernel
import torch
from common import compose_settings
from gpu_job import Job

from atlas_bench.evaluation.memory_use import Meter
from atlas_bench.evaluation.streaming import prefill
from atlas_bench.models.accounting import COUNTED_TOKENS, account
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import LanguageModel, count_parameters
from atlas_bench.runs.settings import RunSettings

# Dense bfloat16 TFLOP/s by the vendor's datasheet.
PEAKS = {"H200": 989, "H100 80GB HBM3": 989, "H100 PCIe": 756, "A100": 312}
VOCABULARY, TOKENS = 32_000, 4096
# Sequences of a step: what 80 GB hold. A memory keeps one state a chunk for the backward pass.
BATCH = {
    "transformer": {"170m": 8, "340m": 4},
    "deltanet": {"170m": 4, "340m": 2},
    "titans": {"170m": 4, "340m": 1},
    "atlas": {"170m": 2, "340m": 1},
}
CELLS = [(scale, model) for scale in ("170m", "340m") for model in BATCH]
COMPILED = [("170m", "transformer"), ("340m", "transformer")]
COMPILED += [("170m", model) for model in ("deltanet", "titans", "atlas")]
MARKS = (10_000, 100_000, 300_000, 1_000_000)  # tokens read at which the long read is measured
PIECE = 16_384


# the card -----------------------------------------------------------------------------------


def machine(job: Job) -> Iterator[dict]:
    """Versions, and three rates that the others can be held against."""
    facts = {"python": platform.python_version(), "torch": torch.__version__}
    facts |= {"CPU cores": os.cpu_count(), "float32 products": torch.get_float32_matmul_precision()}
    if job.device == "cuda":
        card = torch.cuda.get_device_properties(0)
        facts["card"] = (
            f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {card.major}.{card.minor}"
        )
        facts["CUDA"] = torch.version.cuda
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
        facts["bfloat16"] = torch.cuda.is_bf16_supported()
    for package in ("triton", "fla"):
        try:
            facts[package] = __import__(package).__version__
        except ImportError:
            facts[package] = "not installed"
    for name, value in facts.items():
        yield {"cell": name, "value": value}
    side, count = (256, 3) if job.small else (8192, 10)
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=job.device, dtype=dtype) for _ in range(2))
        rate = 2 * side**3 / best_seconds(job, lambda a=a, b=b: a @ b, count) / 1e12
        yield {"cell": f"{str(dtype)[6:]} product of {side}, TFLOP/s", "value": rate}
    x = torch.randn(2**20 if job.small else 2**30, device=job.device)
    rate = 2 * x.numel() * 4 / best_seconds(job, x.clone, count) / 1e12
    yield {"cell": "copy, TB/s", "value": rate}


def synchronize(job: Job) -> None:
    if job.device == "cuda":
        torch.cuda.synchronize()


def best_seconds(job: Job, run: Callable, count: int, most_seconds: float = 60) -> float:
    """The median of up to ``count`` calls after one to warm up, within ``most_seconds``."""
    run()
    seconds: list[float] = []
    while len(seconds) < count and sum(seconds) < most_seconds:
        synchronize(job)
        started = time.perf_counter()
        run()
        synchronize(job)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


# training steps -----------------------------------------------------------------------------


def cell_settings(job: Job, scale: str, model: str) -> tuple[RunSettings, int]:
    """Settings and tokens of a cell."""
    if job.small:
        return compose_settings([f"model={model}", "scale=tiny"]), 64
    return compose_settings([f"model={model}", f"scale={scale}"]), TOKENS


def operations(job: Job) -> Iterator[dict]:
    """Matrix products' FLOPs a token of a training step, counted on one and on two layers.

    Attention is counted at the length of the step and without regard to the mask.
    """
    for scale, model in job.share(CELLS):
        settings, tokens = cell_settings(job, scale, model)
        counted = tokens if model == "transformer" else min(tokens, COUNTED_TOKENS)
        layers_of_model = settings.scale.layers
        found = []
        for layers in (1, 2):
            settings.scale.layers = layers
            counts = account(settings.model, settings.scale, vocab_size=VOCABULARY, tokens=counted)
            found.append(counts.training_operations)
        yield {
            "cell": f"{scale} {model}",
            "FLOP a token": found[0] + (layers_of_model - 1) * (found[1] - found[0]),
        }


class Cell:
    """A model on the device with its optimizer, and its training step."""

    def __init__(self, job: Job, scale: str, model: str) -> None:
        settings, self.tokens = cell_settings(job, scale, model)
        self.job, self.name = job, f"{scale} {model}"
        self.vocabulary = 1024 if job.small else VOCABULARY
        with torch.device(job.device):
            self.model: LanguageModel = build_model(
                settings.model, settings.scale, vocab_size=self.vocabulary, seed=0
            )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def step(self, forward: Callable, batch: int, tokens: int) -> float:
        """Forward in bfloat16 with the loss, backward, clipping, AdamW; the loss."""
        ids = torch.randint(0, self.vocabulary, (batch, tokens + 1), device=self.job.device)
        with torch.autocast(self.job.device, torch.bfloat16):
            hidden, _ = forward(ids[:, :-1])
            losses, _ = self.model.token_losses(hidden.flatten(0, 1), ids[:, 1:].flatten())
            loss = losses.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def tokens_per_second(self, forward: Callable, batch: int, most_seconds: float) -> float:
        run = partial(self.step, forward, batch, self.tokens)
        return batch * self.tokens / best_seconds(self.job, run, 5, most_seconds)


def training(job: Job) -> Iterator[dict]:
    """Tokens/s, TFLOP/s, the share of the card's peak and peak memory of a training step."""
    counted = {row["cell"]: row["FLOP a token"] for row in job.rows_of("operations")}
    for scale, model in job.share(CELLS):
        cell = Cell(job, scale, model)
        batch = 1 if job.small else BATCH[model][scale]
        while batch:
            try:
                yield _training_row(job, cell, batch, counted.get(cell.name))
                break
            except torch.OutOfMemoryError:
                batch //= 2
        else:
            yield {"cell": cell.name, "note": "one sequence is too much for the card"}
        del cell
        _free()


def _training_row(job: Job, cell: Cell, batch: int, flops: float | None) -> dict:
    _free()
    meter = Meter(torch.device(job.device))
    cell.step(cell.model, batch, 512 if not job.small else 32)  # to warm up
    started = time.perf_counter()
    loss = cell.step(cell.model, batch, cell.tokens)
    synchronize(job)
    seconds = time.perf_counter() - started
    if seconds < 6:  # long ones are long for their many launches, not for want of warmth
        run = partial(cell.step, cell.model, batch, cell.tokens)
        seconds = best_seconds(job, run, 5, 4)
    rate = batch * cell.tokens / seconds
    row = {
        "cell": cell.name, "parameters": count_parameters(cell.model), "batch": batch,
        "tokens": cell.tokens, "step, s": seconds, "tokens/s": rate,
        "peak memory, GiB": meter.peak() / 2**30, "loss": loss,
    }  # fmt: skip
    if flops is None:
        return row
    row["TFLOP/s"] = rate * flops / 1e12
    name = torch.cuda.get_device_name() if job.device == "cuda" else "CPU"
    peak = next((value for part, value in PEAKS.items() if part in name), None)
    if peak is not None:
        row |= {"MFU, %": 100 * row["TFLOP/s"] / peak, "of TFLOP/s": peak}
    return row


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# torch.compile ------------------------------------------------------------------------------


def compiling(job: Job) -> Iterator[dict]:
    """Whether and how fast the model compiles, as hardware.compile=true does; the caches stay."""
    for scale, model in job.share(COMPILED):
        name = f"{scale} {model}"
        yield {"cell": name, "first step, s": f"not within {job.seconds:.0f} s"}
        cell = Cell(job, scale, model)
        started = time.perf_counter()
        try:
            cell.step(torch.compile(cell.model), 1, cell.tokens)
            synchronize(job)
            yield {"cell": name, "first step, s": time.perf_counter() - started}
        except Exception as error:
            yield {"cell": name, "first step, s": f"fails: {' '.join(str(error).split())[:120]}"}


def compiled(job: Job) -> Iterator[dict]:
    """Training steps of one sequence with and without torch.compile, of what compiled."""
    ready = {
        row["cell"] for row in job.rows_of("compiling") if not isinstance(row["first step, s"], str)
    }
    for scale, model in COMPILED:
        if f"{scale} {model}" not in ready:
            continue
        cell = Cell(job, scale, model)
        eager = cell.tokens_per_second(cell.model, 1, 5)
        quick = cell.tokens_per_second(torch.compile(cell.model), 1, 5)
        yield {
            "cell": cell.name, "batch": 1, "tokens/s": eager, "compiled, tokens/s": quick,
            "ratio": quick / eager,
        }  # fmt: skip
        del cell
        _free()


# kernels, a long read, the main command -----------------------------------------------------


def newton_schulz_speed(job: Job) -> Iterator[dict]:
    """The Triton kernel's speed over the torch form's, of the shapes on which it is equal."""
    close = {(row["cell"], row["type"]) for row in job.rows_of("newton_schulz") if row["equal"]}
    for shape in newton_schulz_kernel.SHAPES:
        for compute in newton_schulz_kernel.TYPES:
            name, dtype = f"{shape[0]} x {shape[1]}", str(compute)[6:]
            for count in (64, 1024):
                if (name, dtype) not in close or job.small:
                    continue
                found = newton_schulz_kernel.speed(shape, compute, count, steps=5)
                row = {"cell": f"{count} of {name}, {dtype}"}
                for which, time_ in found.items():
                    row[f"{which}, kernel ms"] = time_["kernel"]
                    row[f"{which}, torch ms"] = time_["torch"]
                    row[f"{which}, torch / kernel"] = time_["torch"] / time_["kernel"]
                yield row


def streaming(job: Job) -> Iterator[dict]:
    """One sequence read by ATLAS at scale=tiny in pieces: tokens/s and peak memory on the way."""
    settings = compose_settings(["model=atlas"])
    model = build_model(settings.model, settings.scale, vocab_size=1024, seed=0).eval()
    model = model.to(job.device)
    piece, marks = (256, (512, 1024)) if job.small else (PIECE, MARKS)
    ids = torch.randint(0, 1024, (1, marks[-1]), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        prefill(model, ids[:, :piece], model.init_state(1), piece)  # to warm up
        state, read = model.init_state(1), 0
        meter = Meter(torch.device(job.device))
        started = time.perf_counter()
        for mark in marks:
            hidden, state = prefill(model, ids[:, read:mark], state, piece)
            read = mark
            synchronize(job)
            seconds = time.perf_counter() - started
            yield {
                "cell": f"{mark:,} tokens", "seconds": seconds, "tokens/s": read / seconds,
                "peak memory, MiB": meter.peak() / 2**20, "finite": bool(hidden.isfinite().all()),
            }  # fmt: skip


def demo(job: Job) -> Iterator[dict]:
    """`atlas-bench model=atlas task=babilong` with a tenth of the training, and fewer samples."""
    shorter = ["training.tokens=100000", "task.lengths=[0k,1k,4k]", "task.samples=20"]
    if job.small:
        shorter = ["training.tokens=2048", "task.lengths=[0k]", "task.samples=2"]
    with tempfile.TemporaryDirectory() as folder:
        words = ["model=atlas", "task=babilong", "logger=none", *shorter]
        words += [f"hardware.device={job.device}", f"hydra.run.dir={folder}/run"]
        code = "from atlas_bench.cli.run import main; main()"
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        record = json.loads(Path(folder, "run", "record.json").read_text(encoding="utf-8"))
    yield {
        "cell": " ".join(shorter), "seconds": seconds, "training, s": record["train_seconds"],
        "training tokens/s": record["train_tokens"] / record["train_seconds"],
    }  # fmt: skip
    for score in record["scores"]:
        yield {
            "cell": f"{score['length_name']} {score['metric']}", "value, %": 100 * score["value"],
            "reading, tokens/s": score["tokens_per_second"],
            "peak memory, MiB": score["peak_memory_bytes"] / 2**20,
        }  # fmt: skip


def tests(job: Job) -> Iterator[dict]:
    """The repository's tests of the kernels that need a GPU."""
    for path in ("tests/memory/test_kernels.py", "tests/memory/test_fla.py"):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-n",
            "0",
            "-q",
            "-k",
            "on_a_gpu or kernels_equal",
            path,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        yield {"cell": path, "value": done.stdout.strip().splitlines()[-1]}
