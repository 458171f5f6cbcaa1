"""Documents to one flat array of ids: `[bos] t1 ... tn eos`, nothing else between.

Every id is checked against the model's id space before it is written: an id without an embedding row is an index error on a CPU and silent
nonsense on a GPU, hours later.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rewarm.errors import UserError
from rewarm.tokens.separators import Separators
from rewarm.vocab.encoder import Encoder


def encode(texts: list[str], encoder: Encoder, separators: Separators, rows: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """(ids uint32 [N], lengths int64 [documents]) of the documents end to end; a length counts the separators.

    rows: size of the id space (`vocab_size` of the model's config); UserError for an id beyond it.
    """
    encoded = encoder.encode_batch(texts)
    before = 0 if separators.bos is None else 1
    lengths = np.fromiter((len(ids) + before + 1 for ids in encoded), dtype=np.int64, count=len(encoded))
    ends = np.cumsum(lengths)
    flat = np.empty(int(lengths.sum()), dtype=np.uint32)
    flat[ends - 1] = separators.eos
    starts = ends - lengths
    if separators.bos is not None:
        flat[starts] = separators.bos
    for ids, start in zip(encoded, (starts + before).tolist()):
        flat[start : start + len(ids)] = ids
    if len(flat) and int(flat.max()) >= rows:
        bad = int(flat.max())
        raise UserError(
            f"the tokenizer makes id {bad:,}, and the model has rows 0 to {rows - 1:,} only (vocab_size {rows:,})",
            fix="tokenizer and model do not belong together, or a token was added without a row: fetch both from the same place",
        )
    return flat, lengths
