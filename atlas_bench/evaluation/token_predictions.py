"""A language model's predictions at labelled positions.

Shapes: B sequences of T tokens; hidden states have the width of the model.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from atlas_bench.evaluation.memory_use import refuse_what_cannot_fit
from atlas_bench.evaluation.streaming import read
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.packing import packed_forward
from atlas_bench.tasks.task import Batch, TokenPredictions


@torch.inference_mode()
def predict(
    model: LanguageModel, batch: Batch, *, prefill_chunk: int, first_example: int = 0
) -> TokenPredictions:
    """The most likely token and the target's loss at the labelled positions of a batch.

    Sequences are read in chunks of ``prefill_chunk`` tokens. Raises DoesNotFit for a batch whose
    state is larger than the free memory.
    """
    refuse_what_cannot_fit(model, *batch.inputs.shape)
    inputs = torch.from_numpy(batch.inputs).to(model.embedding.weight.device, torch.long)
    if model.readout is not None:  # it reads all hidden states from the last one of a call
        prefill_chunk = inputs.shape[1]

    def read_rows(rows: Tensor) -> Iterator[Tensor]:
        chunks = read(model, rows, model.init_state(len(rows)), prefill_chunk)
        return (hidden for hidden, _ in chunks)

    def forward(rows: Tensor) -> tuple[Tensor, None]:
        return torch.cat(list(read_rows(rows)), 1), None

    chunks = read_rows(inputs)
    if batch.starts is not None:  # every document from a fresh state
        chunks = [packed_forward(model, inputs, batch.starts, forward)]
    parts, start = [], 0
    for hidden in chunks:
        length = hidden.shape[1]
        example, position = np.nonzero(batch.answer_mask[:, start : start + length])
        target = batch.targets[example, start + position].astype(np.int64)
        loss, predicted = model.token_losses(
            hidden[example, position], torch.from_numpy(target).to(hidden.device)
        )
        parts.append(
            TokenPredictions(
                example=first_example + example,
                position=start + position,
                target=target,
                predicted=predicted.cpu().numpy(),
                loss=loss.cpu().numpy(),
            )
        )
        start += length
    return join(parts)


def as_base64(predictions: TokenPredictions) -> str:
    """Predictions as text; `from_base64` reads them."""
    file = io.BytesIO()
    np.savez_compressed(file, **vars(predictions))
    return base64.b64encode(file.getvalue()).decode()


def from_base64(text: str) -> TokenPredictions:
    with np.load(io.BytesIO(base64.b64decode(text))) as arrays:
        return TokenPredictions(**arrays)


def join(parts: Sequence[TokenPredictions]) -> TokenPredictions:
    """Predictions of several batches as those of one."""
    columns = zip(*(vars(part).values() for part in parts), strict=True)
    return TokenPredictions(*map(np.concatenate, columns))
