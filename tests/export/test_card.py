"""The model card says what was done and measured, in words that survive Markdown, HTML and YAML."""

from __future__ import annotations

from ruamel.yaml import YAML

from rewarm.export.card import card, escape

FACTS = {
    "name": "demo",
    "licence": "apache-2.0",
    "prompt": 'Điều 1. "Luật" là\n',
    "base": {"name": "someone/Small-135M", "licence": "apache-2.0", "stored_as": {"Q4_1": 210, "F32": 61}, "languages": ["en"]},
    "sources": [
        {"name": "vi_law", "role": "new", "languages": ["vi"], "licence": "MIT", "documents": 2525, "bytes": 3_200_000},
        {"name": "en_wiki", "role": "replay", "languages": ["en"], "licence": None, "documents": 9000, "bytes": 5_400_000},
    ],
    "texts": {
        "vi_law": {
            "role": "new",
            "bytes_per_token": {"before": 1.6, "after": 3.5},
            "bits_per_byte": {"before": 1.669, "extended": 2.45, "after": 1.079, "delta": -0.59, "low": -0.62, "high": -0.56},
            "documents": 30,
        },
        "en_wiki": {
            "role": "old",
            "bytes_per_token": {"before": 4.65, "after": 4.65},
            "bits_per_byte": {"before": 0.886, "extended": 0.886, "after": 0.870, "delta": -0.016, "low": None, "high": None},
            "documents": 7,
        },
    },
    "training": {"tokens": 45_056, "steps": 44, "seconds": 330.0},
    "vocabulary": {"new_tokens": 2750, "true_vocab": 51_902},
    "mixback": 0.8,
    "warnings": ["The held-out text is small."],
}


def head(text: str) -> dict:
    _, first, _ = text.split("---\n", 2)
    return dict(YAML(typ="safe").load(first))


def test_the_card_holds_the_numbers_with_their_intervals():
    """A number without its interval claims more than was measured; too little text is said and not hidden."""
    text = card(FACTS)
    assert "| vi\\_law | new | 1.60 to 3.50 | 1.669 to 1.079 | -0.590 | -0.620 to -0.560 | 30 |" in text
    assert "| en\\_wiki | old | 4.65 to 4.65 | 0.886 to 0.870 | -0.016 | too little text | 7 |" in text
    assert "45,056 tokens in 44 steps, 5.5 minutes" in text and "2,750 tokens to 51,902" in text and "0.80 of what training changed" in text
    assert "| vi\\_law | new | vi | MIT | 2,525 | 3.20 |" in text and "| en\\_wiki | replay | en | not stated | 9,000 | 5.40 |" in text


def test_the_limits_are_said_plainly():
    """4 bits in the base hide forgetting; old text of the replay's own source proves little about other text."""
    text = card(FACTS)
    assert "(Q4\\_1): training also heals" in text and "Held-out en\\_wiki is of the same source as the replayed text" in text
    assert "The held-out text is small." in text and "not tested for following instructions" in text
    full = card({**FACTS, "base": {"name": "x", "stored_as": {"F32": 3, "BF16": 1}}, "texts": {"vi_law": FACTS["texts"]["vi_law"]}})
    assert "heals" not in full and "what was forgotten is unknown" in full


def test_the_head_is_yaml_that_the_hub_reads():
    """A name with a colon or a quote must not end the head; a base that is no hub name must not become a dead link."""
    assert head(card(FACTS)) == {
        "license": "apache-2.0",
        "language": ["en", "vi"],
        "base_model": "someone/Small-135M",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["continual-pretraining", "rewarm"],
    }
    assert "base_model" not in head(card({**FACTS, "base": {"name": "a: 'local' model"}}))


def test_the_use_lines_are_python_and_hold_the_prompt():
    """Copied and run they must work, whatever the prompt holds."""
    code = card(FACTS).split("```python\n")[1].split("```")[0]
    assert compile(code, "card", "exec") and repr(FACTS["prompt"]) in code and len(code.splitlines()) == 3


def test_names_stay_text():
    """A source's name comes from a recipe that somebody else may have written."""
    source = {**FACTS["sources"][0], "name": "a|b<script>x</script>\n# [l](u) *b* `c`"}
    text = card({**FACTS, "sources": [source], "name": "<img onerror=x>"})
    assert "<script>" not in text and "<img" not in text and "\n# [l]" not in text
    row = next(line for line in text.splitlines() if "script" in line and line.startswith("|"))
    assert row.replace("\\|", "").count("|") == 7
    assert escape("a_b & <c>\x1b[1m") == "a\\_b &amp; &lt;c&gt; \\[1m"


def test_little_is_needed_and_nothing_is_invented():
    """A folder exported without a run has a card too, which says that nothing was measured and no licence chosen."""
    text = card({})
    assert "Nothing was measured." in text and "No licence was chosen" in text and "not stated" in text
    assert "license" not in head(text) and "undefined" not in text.lower() and "None" not in text
    assert card(FACTS) == card(dict(reversed(FACTS.items())))
