"""Pretrained models of the hub, through lm-eval's own Hugging Face backend.

Imported only for `model=hf`: it needs transformers (the `[hf]` extra).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn

from atlas_bench.evaluation.memory_use import DoesNotFit, Meter
from atlas_bench.evaluation.streaming import Generated, Prompt, batches
from atlas_bench.interrupts import Interrupted
from atlas_bench.models.settings import ModelSettings
from atlas_bench.naming import one_line
from atlas_bench.text.tokenizer import Tokenizer, load_tokenizer

# Names in configurations for the number of positions; recurrent models have none.
_POSITIONS = ("n_positions", "max_position_embeddings", "n_ctx")


class HubLM(HFLM):
    """HFLM that counts the tokens it reads, as our own lm-eval model does."""

    tokens_read = 0
    on_text: Callable[[], None] = staticmethod(lambda: None)

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


class HubModel:
    """A model and its tokenizer, from the hub or a local folder.

    Raises ValueError in one sentence if they cannot be loaded. Code of the repository runs only
    with ``trust_remote_code``.
    """

    def __init__(self, settings: ModelSettings, device: torch.device) -> None:
        self.name, hub = settings.name, settings.hub
        transformers.utils.logging.disable_progress_bar()
        try:
            self.lm = HubLM(
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
        self.batch_size = hub.batch_size
        self.most_tokens = hub.max_length or _positions(self.lm.config)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.lm.model.parameters()

    def save_tokenizer(self, folder: Path) -> Path:
        """Write ``folder/NAME/tokenizer.json``, which our tasks load; returns its folder."""
        return save_tokenizer(self.lm.tokenizer, self.name, folder)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Iterable[Prompt],
        *,
        max_new: int,
        batch_tokens: int,
        on_prompt: Callable[[], None] = lambda: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Generated:
        """Greedy answers up to the model's own end token.

        Raises DoesNotFit for a prompt with more tokens than the model has positions, ValueError
        for tokens that it does not know.
        """
        model, tokenizer = self.lm.model, self.lm.tokenizer
        begin = begin_ids(tokenizer)
        ends = _end_ids(model, tokenizer)
        meter, tokens_read = Meter(self.lm.device), 0
        answers: dict[int, list[int]] = {}
        for group in batches(prompts, batch_tokens):
            ids = np.stack([np.concatenate([begin, p.context, p.question]) for p in group])
            self._check(ids, max_new)
            for start in range(0, len(group), self.batch_size):
                part = torch.from_numpy(ids[start : start + self.batch_size]).long()
                part = part.to(self.lm.device)
                generated = model.generate(
                    part,
                    attention_mask=torch.ones_like(part),
                    max_new_tokens=max_new,
                    do_sample=False,
                    pad_token_id=ends[0] if ends else 0,
                    eos_token_id=ends or None,
                )
                new = generated[:, part.shape[1] :].tolist()
                for prompt, tokens in zip(group[start:], new, strict=False):
                    answers[prompt.index] = _before(tokens, ends)
                    on_prompt()
                tokens_read += part.numel()
                meter.look()
                if should_stop():
                    raise Interrupted
        ordered = [answers[index] for index in sorted(answers)]
        return Generated(ordered, tokens_read, meter.seconds, meter.peak())

    def _check(self, ids: np.ndarray, max_new: int) -> None:
        known = self.lm.model.get_input_embeddings().weight.shape[0]
        if ids.max() >= known:
            raise ValueError(
                f"the prompts hold tokens that {self.name} does not know; ask a pretrained model "
                f"with task.trained_on=text where the task has that key"
            )
        needed = ids.shape[1] + max_new
        if self.most_tokens is not None and needed > self.most_tokens:
            raise DoesNotFit(
                f"{needed:,} tokens are more than the {self.most_tokens:,} that {self.name} has "
                f"positions for; model.hub.max_length=N asks it anyway"
            )


def hub_tokenizer(name: str, **options: Any) -> Tokenizer:
    """A hub model's tokenizer as one of ours, from the hub or a local folder."""
    import tempfile

    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    with tempfile.TemporaryDirectory() as folder:
        return load_tokenizer(save_tokenizer(tokenizer, name, Path(folder)))


def save_tokenizer(tokenizer: Any, name: str, folder: Path) -> Path:
    """Write ``folder/NAME/tokenizer.json``. Raises ValueError for a tokenizer without that form."""
    target = folder / name.strip("/").replace("/", "--")
    tokenizer.save_pretrained(target)
    if not (target / "tokenizer.json").is_file():
        raise ValueError(f"model.name={name} has no fast tokenizer, which our tasks need")
    return target


def begin_ids(tokenizer: Any) -> list[int]:
    """The token that a model expects before every text, if it expects one."""
    first = tokenizer("a")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Every token with which the model ends an answer."""
    ids = model.generation_config.eos_token_id
    ids = ids if isinstance(ids, list) else [ids]
    return sorted({token for token in (*ids, tokenizer.eos_token_id) if token is not None})


def _before(tokens: list[int], ends: list[int]) -> list[int]:
    """The tokens up to the first that ends an answer."""
    return tokens[: next((i for i, token in enumerate(tokens) if token in ends), len(tokens))]


def _positions(config: Any) -> int | None:
    values = (getattr(config, name, None) for name in _POSITIONS)
    return next((value for value in values if isinstance(value, int)), None)
