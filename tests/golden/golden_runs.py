"""The tiny runs whose numbers are frozen, and how to run them in this process.

Each takes a few seconds on one core. Together they use every kind of task, learner and mixer that
runs on a CPU. All run through the command-line entry, so a change of the modules behind it needs
no change here.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from in_process import atlas_bench
from tiny_llama import save_tiny_llama

# What the presets of ATLAS had when the goldens were frozen.
NS1 = ["model.memory.newton_schulz_steps=1"]
CPU = ["logger=none", "hardware.device=cpu", "hardware.threads=1", "tuned=none"]
BABILONG = [
    "task=babilong", "task.lengths=[0k,1k]", "task.samples=3", "training.tokens=1536",
    "training.batch_tokens=256", "training.warmup_steps=2", "training.checkpoint_every=2",
    "training.curriculum.longest=0.4",
    "training.curriculum.stages=[{length:64,noise:0.0,coarse:true},{length:128,noise:0.5}]",
]  # fmt: skip
NEEDLES = [
    "task=s_niah", "task.lengths=[512]", "task.samples=2", "training.tokens=1024",
    "training.batch_tokens=256", "training.warmup_steps=2", "training.curriculum.threshold=0.0",
    "training.curriculum.patience=2",
    "training.curriculum.stages=[{length:128,noise:0.0},{length:256,noise:0.3}]",
]  # fmt: skip
MQAR = [
    "task=mqar", "task.grid=[{length:32,pairs:4},{length:64,pairs:8}]", "task.vocab_size=64",
    "task.train_examples=32", "task.test_examples=20", "scale=zoology_32", "training.epochs=2",
    "training.min_sequences=8", "training.validate_every=3", "training.warmup_steps=2",
]  # fmt: skip
MAD = [
    "task=mad", "task.train_examples=32", "task.test_examples=20", "scale.width=32",
    "training.epochs=2", "training.min_sequences=16", "training.validate_every=2",
]  # fmt: skip
LM = [
    "task=lm", "task.lengths=[64,256]", "task.held_out_characters=3000", "validation_samples=3",
    "training.tokens=2048", "training.batch_tokens=512", "training.warmup_steps=2",
    "training.curriculum.stages=[{length:256}]",
]  # fmt: skip
SUITES = [
    "+task@evaluations.commonsense=commonsense", "evaluations.commonsense.limit=2",
    "evaluations.commonsense.subtasks=[wikitext,piqa]",
    "+task@evaluations.recall=recall", "evaluations.recall.limit=1",
    "evaluations.recall.subtasks=[based_nq]", "evaluations.recall.context_tokens=250",
]  # fmt: skip
LEARNABILITY = [
    "task=learnability", "task.dimension=8", "task.length=100", "task.sequences=2", "task.rank=2",
    "task.learner.learning_rate=0.01", "validation_samples=2",
]  # fmt: skip
HUB = ["mode=eval", "model=hf", "model.name=./tiny-llama"]


@dataclass(frozen=True)
class Golden:
    """One frozen command."""

    words: list[str]
    needs: str | None = None  # the run whose checkpoint it evaluates
    stop_at_step: int | None = None  # stopped by SIGTERM after this step, then resumed
    equals: str | None = None  # the golden with the same files, instead of files of its own
    equal_files: tuple[str, ...] | None = None  # which of them; None for all

    @property
    def sweep(self) -> bool:
        """Whether the command runs several jobs, each in a folder of its own."""
        return "-m" in self.words


GOLDENS = {
    "babilong_atlas": Golden(["model=atlas", *NS1, *BABILONG, "validation_samples=2"]),
    "babilong_eval": Golden(
        ["mode=eval", "checkpoint=babilong_atlas", "task.subtasks=[qa1,qa2]",
         "task.lengths=[0k,2k]", "task.samples=2", "hardware.prefill_chunk=300"],
        needs="babilong_atlas",
    ),
    "babilong_resumed": Golden(
        ["model=atlas", *NS1, *BABILONG, "mode=train"],
        stop_at_step=3, equals="babilong_atlas", equal_files=("metrics.jsonl",),
    ),
    "s_niah_titans": Golden(
        ["model=titans", *NEEDLES, "task.subtasks=[niah_single_1,niah_single_3]"]
    ),
    "ruler_samba": Golden(
        ["model=atlas_samba", "model.name=samba", *NS1, "task=ruler", *NEEDLES[1:],
         "task.subtasks=[niah_multikey_1,ruler_fwe]"],
    ),
    "mqar_deltanet": Golden(["model=deltanet", *MQAR]),
    "mqar_resumed": Golden(["model=deltanet", *MQAR], stop_at_step=4, equals="mqar_deltanet"),
    "mad_transformer": Golden(["model=transformer", *MAD, "task.subtask=fuzzy_recall"]),
    "mad_compression_mal": Golden(["model=titans_mal", *MAD, "task.subtask=compression"]),
    "lm_atlas_mac": Golden(["model=atlas_mac", "model.query_convolution=false", *NS1, *LM]),
    "lm_suites_titans_mag": Golden(
        ["model=titans_mag", "model.attention.norm=false", *LM, "task.reset_at_documents=false",
         *SUITES]
    ),
    "hub_babilong": Golden([*HUB, "task=babilong", "task.lengths=[0k,1k,2k]", "task.samples=2"]),
    "hub_suites": Golden(
        [*HUB, "task=commonsense", "task.subtasks=[wikitext,piqa]", "task.limit=2"]
    ),
    "learnability": Golden(LEARNABILITY),
    "sweep_mqar": Golden(
        ["-m", "model=gla,swla", *MQAR, "training.epochs=1", "validation_samples=4",
         "task.grid=[{length:32,pairs:4}]"]
    ),
}  # fmt: skip


def run(name: str) -> Path:
    """Run the golden ``name`` in the working directory; the folder it leaves, also ``name``."""
    golden = GOLDENS[name]
    if "model=hf" in golden.words and not Path("tiny-llama").is_dir():
        save_tiny_llama(Path("tiny-llama"))
    place = f"hydra.{'sweep' if golden.sweep else 'run'}.dir={name}"
    words = [*golden.words, *CPU, place]
    if golden.stop_at_step is not None:
        with _stopped_after(golden.stop_at_step):
            code = atlas_bench(*words)
        assert code == 128 + signal.SIGTERM, f"{name} should have been stopped, but ended: {code}"
        assert not (Path(name) / "record.json").exists()
        words.append(f"resume={name}")
    code = atlas_bench(*words)
    assert code == 0, f"{name} ended with exit code {code}"
    return Path(name)


@contextlib.contextmanager
def _stopped_after(step: int) -> Iterator[None]:
    """Send this process SIGTERM after the optimizer's step number ``step``."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGTERM)

    hook = register_optimizer_step_post_hook(count)
    try:
        yield
    finally:
        hook.remove()
