"""The documents of our recall tasks, which tasks/based_*.yaml let lm-eval load."""

from __future__ import annotations

from typing import Any

from atlas_bench.evaluation.loading import run_tokenizer
from atlas_bench.tasks.suites.recall import ANSWER_TOKENS, CONTEXT_TOKENS, Encoder, window


def load(
    path: str,
    *,
    tokenizer: Encoder | str | None = None,
    checkpoint: str | None = None,
    pretrained: str | None = None,
    context_tokens: int = CONTEXT_TOKENS,
    **metadata: Any,
) -> Any:
    """The hub's data set ``path`` with every context cut to a window in tokens of the model.

    lm-eval passes the arguments of its model and of ``--metadata`` by name: the tokenizer is
    ``tokenizer``, or that of a run (``checkpoint``), or of a hub model (``pretrained``). Raises
    ValueError if none of them is given.
    """
    import datasets

    encoder = _encoder(tokenizer, checkpoint, pretrained)
    tokens = context_tokens - ANSWER_TOKENS

    def cut(document: dict[str, Any]) -> dict[str, Any]:
        return {"context": window(document["context"], document["answers"], encoder, tokens)}

    # Without a cache, which would not notice that the result of `cut` depends on the tokenizer.
    return datasets.load_dataset(path).map(cut, load_from_cache_file=False, keep_in_memory=True)


def _encoder(
    tokenizer: Encoder | str | None, checkpoint: str | None, pretrained: str | None
) -> Encoder:
    if tokenizer is not None and not isinstance(tokenizer, str):
        return tokenizer
    if tokenizer is None and checkpoint is not None:
        return run_tokenizer(checkpoint)
    name = tokenizer or pretrained
    if name is None:
        raise ValueError(
            "the recall tasks cut contexts in tokens of the model: give checkpoint=RUN, "
            "pretrained=NAME or tokenizer=NAME in --model_args or --metadata"
        )
    from atlas_bench.evaluation.lm_eval.hub_models import hub_tokenizer

    return hub_tokenizer(name)
