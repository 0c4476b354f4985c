"""A random Llama and a tokenizer with a beginning-of-text token, as the hub has them."""

from __future__ import annotations

import json
from pathlib import Path

from atlas_bench.tasks.vocabulary import shared_tokenizer

POSITIONS = 1500


def save_tiny_llama(folder: Path) -> None:
    """Save it to a new ``folder``. The vocabulary lacks our special tokens."""
    import torch
    import transformers

    backend = json.loads(shared_tokenizer()._backend.to_str())
    vocab = backend["model"]["vocab"]
    renamed = {"<|pad|>": "<s>", "<|answer|>": "</s>", "<|end|>": "<unk>"}
    backend["model"]["vocab"] = {renamed.get(token, token): id_ for token, id_ in vocab.items()}
    backend["added_tokens"] = []
    backend["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [vocab["<|pad|>"]], "tokens": ["<s>"]}},
    }  # fmt: skip
    folder.mkdir()
    (folder / "backend.json").write_text(json.dumps(backend))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "backend.json"), bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=POSITIONS,
        bos_token_id=vocab["<|pad|>"], eos_token_id=vocab["<|answer|>"],
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
