"""Pretrained models of the hub, through lm-eval's own Hugging Face backend.

Imported only for `model=hf`: it needs transformers (the `[hf]` extra).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from atlas_bench.evaluation.memory_use import DoesNotFit
from atlas_bench.evaluation.pieces import Once, each_time
from atlas_bench.evaluation.streaming import Generated, Prompt, answer_groups, batches
from atlas_bench.models.settings import ModelSettings
from atlas_bench.naming import one_line
from atlas_bench.text.tokenizer import Tokenizer, load_tokenizer

# Names in configurations for the number of positions.
_POSITIONS = ("n_positions", "max_position_embeddings", "n_ctx")


class HubModel(HFLM):
    """A model and its tokenizer, from the hub or a local folder.

    Like our own lm-eval model, it counts the tokens it reads and calls ``on_text`` after each text.
    Code of the repository runs only with ``trust_remote_code``. Raises ValueError in one sentence
    if they cannot be loaded.
    """

    tokens_read = 0
    on_text: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, settings: ModelSettings, device: torch.device) -> None:
        hub = settings.hub
        transformers.utils.logging.disable_progress_bar()
        try:
            super().__init__(
                settings.name,
                revision=hub.revision,
                dtype=hub.dtype,
                trust_remote_code=hub.trust_remote_code,
                max_length=hub.max_length,
                batch_size=hub.batch_size,
                device=device.type,
            )
        except (OSError, ValueError, ImportError) as error:
            raise ValueError(
                f"model.name={settings.name} cannot be loaded: {one_line(error)}"
            ) from error
        positions = (getattr(self.config, name, None) for name in _POSITIONS)
        known = next((value for value in positions if isinstance(value, int)), None)
        self.most_tokens = hub.max_length or known  # None: a recurrent model has no limit

    def _model_call(self, inps: Tensor, *arguments: Any, **options: Any) -> Tensor:
        self._count(inps)
        return super()._model_call(inps, *arguments, **options)

    def _model_generate(self, context: Tensor, *arguments: Any, **options: Any) -> Tensor:
        self._count(context)
        return super()._model_generate(context, *arguments, **options)

    def _count(self, tokens: Tensor) -> None:
        self.tokens_read += tokens.numel()
        for _ in tokens:
            self.on_text()

    @torch.inference_mode()
    def generate(
        self,
        prompts: Iterable[Prompt],
        *,
        max_new: int,
        batch_tokens: int,
        on_prompt: Callable[[], None] = lambda: None,
        once: Once = each_time,
    ) -> Generated:
        """Greedy answers up to the model's own end token.

        Raises DoesNotFit for a prompt with more tokens than the model has positions, ValueError
        for tokens that it does not know.
        """
        begin = self.tokenizer("a")["input_ids"][:1]  # what the model expects before every text
        if begin != [self.tokenizer.bos_token_id]:
            begin = []
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        ends = sorted({*ends, self.tokenizer.eos_token_id} - {None})

        def answer(group: list[Prompt]) -> list[list[int]]:
            ids = np.stack([np.concatenate([begin, p.context, p.question]) for p in group])
            self._check(ids, max_new)
            part = torch.from_numpy(ids).long().to(self.device)
            generated = self.model.generate(
                part,
                attention_mask=torch.ones_like(part),
                max_new_tokens=max_new,
                do_sample=False,
                pad_token_id=ends[0] if ends else 0,
                eos_token_id=ends or None,
            )
            new = generated[:, part.shape[1] :].tolist()
            return [list(takewhile(lambda token: token not in ends, tokens)) for tokens in new]

        groups = batches(prompts, batch_tokens, self.batch_size)
        answers = answer_groups(groups, answer, self.device, on_prompt, once)
        begins = len(begin) * len(answers.tokens)
        return replace(answers, tokens_read=answers.tokens_read + begins)

    def _check(self, ids: np.ndarray, max_new: int) -> None:
        known = self.model.get_input_embeddings().weight.shape[0]
        if ids.max() >= known:
            raise ValueError(
                f"the prompts hold tokens that {self.pretrained} does not know; ask a pretrained "
                f"model with task.trained_on=text where the task has that key"
            )
        needed = ids.shape[1] + max_new
        if self.most_tokens is not None and needed > self.most_tokens:
            raise DoesNotFit(
                f"{needed:,} tokens are more than the {self.most_tokens:,} that {self.pretrained} "
                f"has positions for; model.hub.max_length=N asks it anyway"
            )


def hub_tokenizer(name: str) -> Tokenizer:
    """A hub model's tokenizer as one of ours, from the hub or a local folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    with tempfile.TemporaryDirectory() as folder:
        return load_tokenizer(save_tokenizer(tokenizer, name, Path(folder)))


def save_tokenizer(tokenizer: Any, name: str, folder: Path) -> Path:
    """Write ``folder/NAME/tokenizer.json``. Raises ValueError for a tokenizer without that form."""
    target = folder / name.strip("/").replace("/", "--")
    tokenizer.save_pretrained(target)
    if not (target / "tokenizer.json").is_file():
        raise ValueError(f"model.name={name} has no fast tokenizer, which our tasks need")
    return target
