"""Build a model of the size that its settings ask for."""

from __future__ import annotations

import itertools

import torch

from atlas_bench.models.associative_memory import (
    Association,
    AssociativeRecurrentMemoryTransformer,
)
from atlas_bench.models.attention import Attention
from atlas_bench.models.checks import check_settings
from atlas_bench.models.language_model import LanguageModel, count_parameters
from atlas_bench.models.mixer import mixer_class
from atlas_bench.models.recurrent_memory import RecurrentMemoryTransformer
from atlas_bench.models.settings import ModelSettings, ScaleSettings


def build_model(
    model: ModelSettings,
    scale: ScaleSettings,
    *,
    vocab_size: int,
    seed: int,
    readout: str = "next",
) -> LanguageModel:
    """A model initialised from ``seed``, of the size that ``model.match`` names.

    ``parameters``: if the mixers have more parameters than attention, the feed-forward is narrowed
    until the totals agree as nearly as whole units allow. A scale without a feed-forward (MQAR's)
    has nothing to narrow; it compares models of equal width. ``state``: every mixer sizes its state
    (`Mixer.match_state`). Raises ValueError if no choice comes near.
    """
    check_settings(model, scale)
    if model.match == "state":
        if model.recurrence.memory_tokens:
            raise ValueError(
                f"model.match=state cannot match {model.name}, whose state has the size that its "
                f"paper gives it; use model.match=parameters"
            )
        for name in dict.fromkeys(model.mixers):
            model, scale = mixer_class(name).match_state(model, scale)
    ffn_hidden = scale.feed_forward
    if ffn_hidden is None:
        ffn_hidden = 8 * round(scale.width * 8 / 3 / 8)  # a multiple of 8, as in Llama
    plain = model.mixers == ["attention"] and not model.recurrence.memory_tokens
    if ffn_hidden and model.match == "parameters" and not plain:
        ffn_hidden = _matched_ffn_hidden(model, scale, ffn_hidden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _model_class(model)(
            model, scale, vocab_size=vocab_size, ffn_hidden=ffn_hidden, readout=readout
        )


def _model_class(model: ModelSettings) -> type[LanguageModel]:
    if not model.recurrence.memory_tokens:
        return LanguageModel
    if model.recurrence.key_dim is None:
        return RecurrentMemoryTransformer
    return AssociativeRecurrentMemoryTransformer


def _matched_ffn_hidden(model: ModelSettings, scale: ScaleSettings, ffn_hidden: int) -> int:
    """``ffn_hidden`` less what the mixers have more than attention, mean over the layers.

    A layer's associative memory counts as part of its mixer. Memory tokens do not count: there are
    a few for the whole model.
    """
    with torch.device("meta"):
        attention = count_parameters(Attention(ModelSettings(), scale))
        names = list(itertools.islice(itertools.cycle(model.mixers), scale.layers))
        counts = {name: count_parameters(mixer_class(name)(model, scale)) for name in set(names)}
        association = 0
        if model.recurrence.memory_tokens and model.recurrence.key_dim is not None:
            association = count_parameters(Association(scale.width, model.recurrence.key_dim))
    mixer = round(sum(counts[name] for name in names) / len(names)) + association
    matched = ffn_hidden - round((mixer - attention) / (3 * scale.width))
    if matched < 1:
        raise ValueError(
            f"model.match=parameters cannot match {model.name} at scale.name={scale.name}: its "
            f"mixers alone have {mixer:,} parameters a layer; lower model.memory.expansion or "
            f"scale.memory_key_dim, or set model.match=none"
        )
    return matched
