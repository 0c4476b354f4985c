"""The pieces of an evaluation, kept on disk, so that a stopped one loses only the piece in work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from torch import nn

from atlas_bench.artifacts.folder import RunFolder, append_lines, read_lines, write_lines
from atlas_bench.config.identity import first_difference
from atlas_bench.interrupts import Interrupted

# (name of a piece, the work) -> what the work gives or gave, in JSON's types
Once = Callable[[str, Callable[[], Any]], Any]


def each_time(_name: str, work: Callable[[], Any]) -> Any:
    """A `Once` that keeps nothing."""
    return work()


class Pieces:
    """The pieces that are done, in a folder's ``evaluated.jsonl`` below the evaluation's identity.

    Pieces of another identity are forgotten, and the console says in what it differs.
    """

    def __init__(self, folder: RunFolder, identity: Mapping[str, Any], console: Console) -> None:
        self._file = folder.evaluated
        saved = read_lines(self._file)
        difference = first_difference(saved[0], identity) if saved else None
        if difference and len(saved) > 1:
            console.print(f"evaluating everything again: {difference}", style="yellow")
        rows = saved if saved and not difference else [identity]
        write_lines(self._file, rows)
        self._done = {row["piece"]: row["value"] for row in rows[1:]}

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """What ``work`` gave in an earlier, stopped evaluation; else what it gives now."""
        if name not in self._done:
            row = json.loads(json.dumps({"piece": name, "value": work()}, default=str))
            append_lines(self._file, [row])
            self._done[name] = row["value"]
        return self._done.pop(name)


def weights_hash(module: nn.Module | None) -> str | None:
    """SHA-256 of all parameters and buffers, with their names."""
    if module is None:
        return None
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def stopping(module: nn.Module | None, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Raise Interrupted at the next forward pass after a stop: between two chunks of a context."""

    def check(*_: Any) -> None:
        if should_stop():
            raise Interrupted

    hooks = [] if module is None else [module.register_forward_pre_hook(check)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
