"""Our models as an lm-eval model: `lm_eval --model atlas_bench --model_args checkpoint=RUN ...`.

lm-eval decides how a prompt and its continuation are split into tokens; prefixes.py reads them.
Contexts have no maximum length unless ``max_length`` sets one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import (
    get_rolling_token_windows,
    make_disjoint_window,
    simple_parse_args_string,
)

from atlas_bench.config.errors import ConfigError
from atlas_bench.evaluation.lm_eval.likelihood import (
    Continuation,
    GreedyRequest,
    continue_greedily,
    score,
)
from atlas_bench.evaluation.lm_eval.prefixes import PrefixReader
from atlas_bench.evaluation.loading import Loaded, load_run
from atlas_bench.naming import check_choice

MAX_NEW_TOKENS = 256  # for a task that sets none, as in lm-eval's own models


@register_model("atlas_bench")
class AtlasBenchLM(TemplateLM):
    """``checkpoint``: a run's folder, or a loaded model.

    ``batch_size``: sequences at once, or ``auto`` for as many as ``batch_tokens`` and the free
    memory allow. ``prefill_chunk``: tokens of a sequence read at once. ``share_prefixes=False``
    reads every prompt from its start; only the time differs. ``trust_remote_code`` is accepted from
    lm-eval's command line and ignored: our checkpoints hold no code.
    """

    def __init__(
        self,
        checkpoint: str | Path | Loaded,
        *,
        batch_size: int | str | None = "auto",
        max_batch_size: int | None = None,
        batch_tokens: int = 32768,
        prefill_chunk: int = 2048,
        max_length: int | None = None,
        share_prefixes: bool = True,
        device: str | None = None,
        trust_remote_code: bool | None = None,
    ) -> None:
        super().__init__()
        loaded = checkpoint if isinstance(checkpoint, Loaded) else load_run(checkpoint)
        # lm-eval's command line asks for cuda:0 by default.
        self._device = torch.device(device or "cuda" if torch.cuda.is_available() else "cpu")
        self.model = loaded.model.to(self._device)
        self.own_tokenizer = loaded.tokenizer
        self.max_length = max_length
        rows = max_batch_size if is_auto(batch_size) else int(batch_size)
        self.reader = PrefixReader(
            self.model,
            prefill_chunk=prefill_chunk,
            batch_tokens=batch_tokens,
            batch_rows=rows,
            shared=share_prefixes,
        )
        self.on_text: Callable[[], None] = lambda: None  # called after every request

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> AtlasBenchLM:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> AtlasBenchLM:
        """The model of lm-eval's command line, which wrong arguments end in one sentence."""
        given = {key: each for key, each in (additional_config or {}).items() if each is not None}
        given |= arg_dict
        try:
            for name in given:
                check_choice("--model_args", name, list(signature(cls).parameters))
            if "checkpoint" not in given:
                raise ConfigError("--model_args needs checkpoint=PATH, a run's folder")
            size = given.get("batch_size")
            if not is_auto(size) and not (str(size).isdecimal() and int(size)):
                raise ConfigError(f"--batch_size {size} must be auto or a number of at least 1")
            return cls(**given)
        except ValueError as error:
            print(f"lm_eval: {error}", file=sys.stderr)
            raise SystemExit(2) from error

    @property
    def tokens_read(self) -> int:
        """Tokens given to the model so far; a shared prefix counts once."""
        return self.reader.tokens_read

    @property
    def eot_token_id(self) -> int:
        return self.own_tokenizer.end_id

    @property
    def tokenizer_name(self) -> str:
        """The key by which lm-eval caches requests."""
        return f"{self.own_tokenizer.name}-{self.own_tokenizer.fingerprint}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Ids of the text alone: our models are trained without a begin token."""
        return self.own_tokenizer.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        continuations = [self._truncated(context, tokens) for _, context, tokens in requests]
        return score(self.reader, continuations, self.on_text)

    def _truncated(self, context: list[int], tokens: list[int]) -> Continuation:
        """A continuation after the end of its context, as much as ``max_length`` allows."""
        if self.max_length is not None:
            kept = self.max_length + 1 - len(tokens)
            if kept < 1:
                raise ValueError(
                    f"max_length={self.max_length} is shorter than a continuation of "
                    f"{len(tokens)} tokens"
                )
            context = context[-kept:]
        return Continuation(context, tokens)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Likelihoods of whole documents after the end token, in windows of ``max_length``."""
        windows: list[tuple[int, list[int], list[int]]] = []
        for index, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            longest = self.max_length or max(1, len(tokens))
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, longest, 1):
                windows.append((index, *make_disjoint_window(window)))
        totals = [0.0] * len(requests)
        likelihoods = self._loglikelihood_tokens(windows)
        for (index, *_), likelihood in zip(windows, likelihoods, strict=True):
            totals[index] += likelihood.value
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to the end token, a stop text or the maximum number of tokens.

        Raises ValueError for a task that samples.
        """
        greedy_requests, stops = [], []
        for request in requests:
            text, options = request.args
            options = normalize_gen_kwargs(options, MAX_NEW_TOKENS)
            if options["do_sample"]:
                raise ValueError(
                    "atlas_bench decodes greedily; leave do_sample and temperature out"
                )
            until = [stop for stop in options["until"] if stop]

            def is_complete(tokens: list[int], until: list[str] = until) -> bool:
                return any(stop in self.own_tokenizer.decode(tokens) for stop in until)

            context = self.tok_encode(text) or [self.prefix_token_id]
            if self.max_length is not None:
                context = context[-max(1, self.max_length - options["max_gen_toks"]) :]
            greedy_requests.append(GreedyRequest(context, options["max_gen_toks"], is_complete))
            stops.append(until)
        continuations = continue_greedily(
            self.reader, greedy_requests, end_id=self.eot_token_id, on_text=self.on_text
        )
        return [
            _before(self.own_tokenizer.decode(tokens), until)
            for tokens, until in zip(continuations, stops, strict=True)
        ]


def is_auto(batch_size: int | str | None) -> bool:
    """Whether a batch size is ``auto``, or lm-eval's ``auto:N``, which finds it N times again."""
    return batch_size is None or str(batch_size).partition(":")[0] == "auto"


def _before(text: str, until: list[str]) -> str:
    """The text up to the first of the stop texts."""
    return text[: min([text.find(stop) for stop in until if stop in text], default=len(text))]
