"""Seconds of each stage of a run to come: pure arithmetic on what was measured and on the lengths of the text."""

from __future__ import annotations

from dataclasses import dataclass

from rewarm.measuring import Measured

CORPUS_BYTES, COUNT_BYTES = 6e6, 2.5e6
"""Bytes a second that the corpus stage reads and cleans, and that the vocabulary stage counts, on two cores."""
VOCAB_SECONDS, EXPORT_SECONDS = 8.0, 7.0
"""The gates of the vocabulary stage, and the export with its checks in fresh processes."""
MIXED = 2
"""Mixtures that are scored at the end: the first candidate passes or the second does, in most runs."""


@dataclass(frozen=True, slots=True)
class TextSize:
    """A text by its role (`new`, `replay`): clean bytes that are read, and held-out bytes scored to choose with and to report on."""

    role: str
    bytes: int
    control: int
    verify: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds by stage, in order."""

    stages: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.stages.values())


def forecast(
    measured: Measured, steps: int, texts: list[TextSize], *, convert: float, extend: bool, shorter: float, mixback: bool,
    max_minutes: float | None, probe: int, probes: int,
) -> Forecast:  # fmt: skip
    """convert: seconds that making the base's folder took. shorter: tokens of new text with the extended tokenizer, over the base's.
    probe: bytes of each text that a probe scores; probes: how many there are."""
    whole = sum(t.bytes for t in texts)
    token = {t.role: measured.score_tokens.get(t.role, 0.0) * measured.score_token for t in texts}
    after = {role: seconds * (shorter if role == "new" else 1.0) for role, seconds in token.items()}

    def control(seconds: dict[str, float]) -> float:
        return sum(t.control * seconds[t.role] for t in texts)

    def verify(seconds: dict[str, float]) -> float:
        return sum(t.verify * seconds[t.role] for t in texts)

    train = measured.start + steps * measured.step + probes * sum(min(probe, t.control) * after[t.role] for t in texts)
    stages = {
        "base": convert,
        "corpus": whole / CORPUS_BYTES,
        "vocab": (VOCAB_SECONDS + whole / COUNT_BYTES) if extend else 0.0,
        "tokens": whole * measured.encode,
        "train": train if max_minutes is None else 60 * max_minutes,
        "mixback": control({**token, "new": 0.0}) + MIXED * control(after) if mixback else 0.0,
        "evaluate": verify(token) + (1 + extend) * verify(after),
        "export": EXPORT_SECONDS,
    }
    return Forecast({name: seconds for name, seconds in stages.items() if seconds > 0})
