"""Files of a stopped run are damaged on disk: bits flip, blocks become zero, ends are cut off."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from tally import Tally
from tiny_run import PLACE, RUN, WORDS, Outcome, attempt, judge, scores
from watched_disk import Crashes, Tree, read_tree, watching, write_tree

pytestmark = pytest.mark.faults

# Logs: a changed digit in them is a wrong digit in a plot, and no run goes on from them.
NO_CHECKSUM = ("metrics.jsonl", "predictions.jsonl", "atlas-bench.log", ".hydra/")


def damaged(content: bytes, seed: int) -> dict[str, bytes]:
    """The content with a bit flipped, with a block of zeros, cut off, and empty."""
    draw = random.Random(seed)
    flipped, zeroed = bytearray(content), bytearray(content)
    for _ in range(2):
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    start = draw.randrange(len(content))
    zeroed[start : start + 64] = bytes(len(zeroed[start : start + 64]))
    cut = content[: draw.randrange(len(content))]
    return {"flipped": bytes(flipped), "zeroed": bytes(zeroed), "cut off": cut, "empty": b""}


def stopped(place: Path, capfd: pytest.CaptureFixture[str]) -> Tree:
    """The run's folder as a kill leaves it in the middle, with two checkpoints."""
    crashes = Crashes(place)
    with watching(place, crashes):
        assert attempt(capfd, *WORDS, PLACE).code == 0
    shutil.rmtree(place / RUN)
    trees = [tree for _, tree in crashes.trees.values()]
    whole = [t for t in trees if f"{RUN}/record.json" not in t]
    pointed = [t for t in whole if b"step-00000006" in t.get(f"{RUN}/checkpoints/last.json", b"")]
    # Its lock names this process, which lives; tests/artifacts/test_lock.py has damaged locks.
    return {name: each for name, each in pointed[0].items() if name != f"{RUN}/run.lock"}


def test_a_damaged_file_of_a_stopped_run(
    place: Path, whole: Outcome, tally: Tally, capfd: pytest.CaptureFixture[str]
) -> None:
    """It goes on to the same end, from an older checkpoint if need be, or says what is damaged."""
    tree = stopped(place, capfd)
    for number, (name, content) in enumerate(tree.items()):
        if not content or name.removeprefix(f"{RUN}/").startswith(NO_CHECKSUM):
            continue
        for how, bad in damaged(content, number).items():
            if bad == content:
                continue
            write_tree({**tree, name: bad}, place)
            found = attempt(capfd, *WORDS, PLACE, f"resume={RUN}")
            where = f"{name} {how}"
            if found.in_one_sentence:
                tally.tried(where)
            else:
                judge(tally, where, found, whole)
            shutil.rmtree(place / RUN)


def test_a_damaged_checkpoint_is_not_evaluated(
    place: Path, tally: Tally, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every answer is that of the undamaged weights, or the file is named in one sentence."""
    assert attempt(capfd, *WORDS, PLACE).code == 0
    shutil.copytree(RUN, "kept")
    words = ["mode=eval", f"checkpoint={RUN}", "logger=none", "hardware.device=cpu",
             "hardware.threads=1", "hydra.run.dir=again"]  # fmt: skip
    assert attempt(capfd, *words).code == 0
    wanted = scores(place / "again")
    shutil.rmtree("again")
    tree = read_tree(place / RUN)
    files = [n for n, each in tree.items() if each and n.startswith(("checkpoints/", "config"))]
    for number, name in enumerate(files):
        for how, bad in damaged(tree[name], number).items():
            where = f"{name} {how}"
            (place / RUN / name).write_bytes(bad)
            found = attempt(capfd, *words)
            tally.tried(where)
            if "Traceback" in found.said:
                tally.traceback(where, found.said)
            elif found.code == 0 and scores(place / "again") != wanted:
                tally.wrong(where)
            elif found.code != 0 and not found.in_one_sentence:
                tally.lost(where, found.said)
            (place / RUN / name).write_bytes(tree[name])
            shutil.rmtree("again", ignore_errors=True)
