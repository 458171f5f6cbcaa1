"""Where things are in a Hugging Face model, found by structure and not by a table of names: decoder, layers, embedding, head.

What a structure cannot tell, a number hidden in a family's forward pass, the gates at start find: they compare with the model's own
logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from rewarm.errors import UserError
from rewarm.model.experts import has_experts


@dataclass(frozen=True, slots=True)
class Family:
    """The parts of a causal language model.

    kind: its `model_type`. rows: of the head, padding included. logits = logit_scale * (hidden @ head.weight.T + head.bias), then
    softcap * tanh(logits / softcap). positions: how many learned positions there are; None where they are computed (RoPE). experts: whether
    any layer is a mixture of them.
    """

    kind: str
    decoder: nn.Module
    layers: nn.ModuleList
    embedding: nn.Embedding
    head: nn.Linear
    tied: bool
    logit_scale: float
    softcap: float | None
    positions: int | None
    experts: bool

    @property
    def rows(self) -> int:
        return self.head.weight.shape[0]


def family_of(model: PreTrainedModel) -> Family:
    """Finds the parts. UserError where the model is not a causal decoder built of layers with a linear head."""
    config = model.config
    kind = config.model_type
    decoder = model.base_model
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if decoder is model or not isinstance(embedding, nn.Embedding) or type(head) is not nn.Linear:
        raise _unsupported(kind, f"its head is {type(head).__name__} over {type(decoder).__name__}, not one linear layer over a decoder")
    stacks = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    layers = [stack for stack in stacks if len(stack) == config.num_hidden_layers]
    if len(layers) != 1:
        raise _unsupported(kind, f"its decoder has {len(layers)} lists of {config.num_hidden_layers} layers, not one")
    return Family(
        kind=kind,
        decoder=decoder,
        layers=layers[0],
        embedding=embedding,
        head=head,
        tied=head.weight is embedding.weight,
        logit_scale=_logit_scale(model),
        softcap=getattr(config, "final_logit_softcapping", None),
        positions=_learned_positions(decoder, embedding),
        experts=has_experts(layers[0]),
    )


def _unsupported(kind: str, why: str) -> UserError:
    return UserError(
        f"this model cannot be trained: {why}", where=f"model family `{kind}`", fix="use a decoder model such as llama or qwen3"
    )


def _logit_scale(model: PreTrainedModel) -> float:
    """Cohere multiplies the logits by `logit_scale`, Granite divides them by `logits_scaling`."""
    config = model.config
    return float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)


def _learned_positions(decoder: nn.Module, embedding: nn.Embedding) -> int | None:
    """Rows of a second embedding table that is as long as the positions the config allows (GPT-2's `wpe`)."""
    limit = getattr(cast(PreTrainedModel, decoder).config, "max_position_embeddings", None)
    tables = [child for child in decoder.modules() if isinstance(child, nn.Embedding) and child is not embedding]
    longest = max((table.num_embeddings for table in tables), default=None)
    return None if longest is None else min(longest, limit or longest)
