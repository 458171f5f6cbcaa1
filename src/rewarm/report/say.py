"""What the numbers mean, in plain sentences: pure functions of the values in `facts`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rewarm.report.figures import NOT_MEASURED, count, digits, duration, listed, percent, several, signed

FEW_DOCUMENTS = 50
"""Below this many documents an interval is said to be wide."""
FEW_TEXTS = 6
"""Above this many texts not every one gets its sentence: the worst of each role do, and the others are counted."""
LANGUAGES = {"vi": "Vietnamese", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "en": "English"}


def spoken(languages: list[str]) -> list[str]:
    """`Vietnamese` for `vi`; a code that is not known here stays."""
    return [LANGUAGES.get(code, code) for code in languages]


def named(source: dict[str, Any]) -> str:
    """`vi_law (Vietnamese)`."""
    return f"{source['name']} ({listed(spoken(source['languages']))})" if source["languages"] else str(source["name"])


def opening(base: dict[str, Any], sources: list[dict[str, Any]], training: dict[str, Any] | None, total_seconds: float, ended: bool) -> str:
    """What learned what, and how long."""
    new = listed([named(s) for s in sources if s["role"] == "new"]) or "new text"
    if training is None:
        return f"{base['name']} was to be trained further on {new}; the training has not ended."
    old = [s for s in sources if s["role"] == "replay" and s["share"]]
    out = (
        f"{base['name']} was trained further on {new} for {duration(training['seconds'])} on {training['device']}:"
        f" {count(training['tokens'])} tokens in {several(training['steps'] or 0, 'step')}"
    )
    if old:
        share = percent(sum(s["share"] for s in old), 0)
        out += f", of which {share} came from {listed([named(s) for s in old])}, mixed in against forgetting"
    return f"{out}. {'The whole run took' if ended else 'The finished stages took'} {duration(total_seconds)}."


def change(text: dict[str, Any]) -> float | None:
    """The change as a share of the base's bits per byte."""
    return text["delta"] / text["before"] if text["delta"] is not None and text["before"] else None


def moved_by(text: dict[str, Any]) -> str:
    """`-0.3769 (-27.0 %)`."""
    return f"{signed(text['delta'])} ({percent(change(text), 1, sign=True)})"


def span(text: dict[str, Any]) -> str:
    if text["low"] is None or text["high"] is None:
        return "too few documents"
    return f"{signed(text['low'])} to {signed(text['high'])}"


def meaning(text: dict[str, Any]) -> str:
    """One text's change for somebody who knows no statistics."""
    name, documents = text["name"], several(text["documents"], "document")
    if text["delta"] is None:
        found = text["after"] if text["after"] is not None else text["before"]
        return f"{name}: {digits(found)} bits per byte, compared with nothing."
    moved = f"from {digits(text['before'])} to {digits(text['after'])} bits per byte, {moved_by(text)}"
    if text["low"] is None or text["high"] is None:
        return f"{name}: {moved}. {documents} are too few for an interval, so this may be chance."
    interval = f"the 95 % interval is {span(text)}"
    old = text["role"] == "old"
    verdict = text["verdict"]
    if verdict in ("kept", "over", "undecided"):
        ends = {"kept": "all of it within", "over": "all of it above", "undecided": "partly above"}[verdict]
        return f"{name}: {moved}; {interval}, {ends} the {signed(text['budget'])} that were allowed: {verdict}."
    if text["high"] < 0:
        told = "Nothing was lost here; it got better" if old else "It learned: it predicts this text better than the base did"
        return f"{name}: {moved}. {told}: {interval}, all below zero."
    if text["low"] > 0:
        told = "It forgot some of this" if old else "It got worse at this text, which it was to learn"
        return f"{name}: {moved}. {told}: {interval}, all above zero."
    if old:
        return (
            f"{name}: {moved}. No forgetting was seen: {interval} and holds zero. A loss above {signed(text['high'])} is unlikely"
            f" on text like this; a smaller one could be there unseen, as {documents} cannot show it."
        )
    return f"{name}: {moved}. Nothing was learned that {documents} can show: {interval} and holds zero."


def meanings(texts: list[dict[str, Any]]) -> list[str]:
    """A sentence for every text; of many texts one for the worst of each role, and how many had which verdict."""
    if len(texts) <= FEW_TEXTS:
        return [meaning(text) for text in texts]
    out = []
    for role in ("new", "old"):
        mine, lowest = [text for text in texts if text["role"] == role], worst(texts, role)
        if lowest is None:
            continue
        if len(mine) > 1:
            verdicts = Counter(verdict_words(text) for text in mine)
            out.append(f"Of {len(mine)} {role} texts: {', '.join(f'{word} {n:,}' for word, n in verdicts.most_common())}. The worst:")
        out.append(meaning(lowest))
    return out


def verdict_words(text: dict[str, Any]) -> str:
    """The verdict in the words of the page."""
    words = {"gained": "nothing lost, better", "forgot": "forgot some", "worse": "got worse"}
    return words.get(text["verdict"], str(text["verdict"]))


def worst(texts: list[dict[str, Any]], role: str) -> dict[str, Any] | None:
    """The text of a role that came off worst: a headline must not pick the best one."""
    mine = [text for text in texts if text["role"] == role]
    return max(mine, key=lambda text: text["delta"] if text["delta"] is not None else float("inf")) if mine else None


def tiles(texts: list[dict[str, Any]]) -> list[dict[str, str]]:
    """The four figures on top: label, value, note, tone."""
    new, old = worst(texts, "new"), worst(texts, "old")
    out = [_change_tile("Learned", new, texts, "new"), _change_tile("Forgotten", old, texts, "old")]
    value, note = NOT_MEASURED, "No text was measured."
    if texts:
        value = f"{' + '.join(count(t['documents']) for t in texts)} held-out documents"
        if len(texts) > 3:
            value = f"{count(sum(t['documents'] for t in texts))} held-out documents of {len(texts)} texts"
        note = "95 % intervals of the change. " + "; ".join(f"{t['name']}: {span(t)}" for t in (new, old) if t)
    out.append({"label": "How sure", "value": value, "note": note, "tone": "plain"})
    value, note = NOT_MEASURED, "No new text was measured."
    if new and (before := new["bytes_per_token"]["before"]) and (after := new["bytes_per_token"]["after"]):
        value = f"{digits(after / before, 1)} times fewer tokens" if after > before * 1.005 else "as many tokens as before"
        note = f"{new['name']}: {digits(before, 2)} bytes a token before, {digits(after, 2)} after"
    out.append({"label": "Length of new text", "value": value, "note": note, "tone": "plain"})
    return out


def _change_tile(label: str, text: dict[str, Any] | None, texts: list[dict[str, Any]], role: str) -> dict[str, str]:
    if text is None:
        what = "forgotten" if role == "old" else "learned"
        return {"label": label, "value": NOT_MEASURED, "note": f"No {role} text was measured: what was {what} is unknown.", "tone": "warn"}
    several_of = sum(t["role"] == role for t in texts)
    which = f"{text['name']}, the worst of {several_of} {role} texts" if several_of > 1 else text["name"]
    if text["delta"] is None:
        return {"label": label, "value": "not compared", "note": which, "tone": "warn"}
    note = f"{which}: {digits(text['before'])} to {digits(text['after'])} bits per byte, {moved_by(text)}"
    if text["budget"] is not None:
        note += f"; allowed {signed(text['budget'])}"
    tone = "bad" if text["verdict"] in ("forgot", "worse", "over") else "warn" if text["verdict"] == "undecided" else "good"
    moved = "" if text["verdict"] in ("no change seen", "undecided") else f": {percent(change(text), 1, sign=True)}"
    return {"label": label, "value": verdict_words(text) + moved, "note": note, "tone": tone}


def mixed_back(mixback: dict[str, Any]) -> str:
    """What mixing back did, or that it did nothing."""
    alpha = mixback.get("alpha")
    if alpha is None:
        return ""
    if alpha >= 1:
        return f"The weights are those that training ended with, not mixed back (reason: {mixback.get('reason')})."
    return (
        f"After training the weights went a step back towards those that training began with: {percent(alpha, 0)} of each change is kept"
        f" (reason: {mixback.get('reason')})."
    )


def limits(base: dict[str, Any], sources: list[dict[str, Any]], texts: list[dict[str, Any]]) -> list[str]:
    """What the numbers do not show."""
    out = []
    if base["quantised"]:
        out.append(
            f"The base came from a quantised file ({', '.join(base['quantised'])}): training also heals what quantisation broke,"
            " so less seems forgotten than would be from full weights."
        )
    replayed = {s["name"] for s in sources if s["role"] == "replay"}
    if same := [t["name"] for t in texts if t["role"] == "old" and t["name"] in replayed]:
        out.append(
            f"Held-out {listed(same)} comes from the same source as the old text that was mixed in;"
            " other old text may have been forgotten more."
        )
    if not any(t["role"] == "old" for t in texts):
        out.append("No old text was measured: what was forgotten is unknown.")
    if few := [f"{t['name']} {t['documents']:,}" for t in texts if t["documents"] < FEW_DOCUMENTS]:
        out.append(f"Few documents were measured ({', '.join(few)}), so the intervals are wide.")
    if texts:
        out.append(
            "The intervals tell how far the result depends on which documents were held out."
            " This is one training run; another would differ too."
        )
    out.append(
        "Bits per byte is all that was measured. The model continues text: it was not tested for following instructions,"
        " for truth or for safety."
    )
    return out
