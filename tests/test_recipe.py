"""A recipe says what it means, and a wrong one says where it is wrong: all of it, at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from rewarm.errors import UserError
from rewarm.recipe import load_recipe, reference

GOOD = """
model: {base: base}
corpus:
  sources:
    - {name: vi, paths: [vi.txt], role: new, languages: [vi]}
    - {name: en, paths: [en.txt], role: replay, languages: [no]}
"""


def recipe(tmp_path: Path, text: str = GOOD, *overrides: str):
    path = tmp_path / "my recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, list(overrides)).recipe


def problems(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        recipe(tmp_path, text, *overrides)
    return str(caught.value)


NUMBERS = {
    "vocab.tau": ("1e-2", 0.01),
    "vocab.size": ("64", 64),
    "train.lr": ("6e-4", 6e-4),
    "train.weight_decay": ("1E-1", 0.1),
    "train.step_tokens": ("524_288", 524_288),
    "train.lr_scale.new_rows": ("8e0", 8.0),
    "train.max_hours": ("12.5", 12.5),
}


def value_of(section, path: str):
    for step in path.split("."):
        section = getattr(section, step)
    return section


@pytest.mark.parametrize("way", ["file", "command line"])
def test_numbers_arrive_as_numbers(tmp_path, way):
    """`6e-4` is a string and `524_288` a guess in YAML 1.1; here both ways of writing them give the same number."""
    if way == "command line":
        got = recipe(tmp_path, GOOD, *(f"{path}={text}" for path, (text, _) in NUMBERS.items()))
    else:
        vocab = "vocab: {tau: 1e-2, size: 64}\n"
        train = "train:\n  lr: 6e-4\n  weight_decay: 1E-1\n  step_tokens: 524_288\n  lr_scale: {new_rows: 8e0}\n  max_hours: 12.5\n"
        got = recipe(tmp_path, GOOD + vocab + train)
    for path, (_, value) in NUMBERS.items():
        assert value_of(got, path) == value and type(value_of(got, path)) is type(value), path


def test_wrong_numbers_are_named_with_file_field_line_and_value_all_at_once(tmp_path):
    """`1:30` must never become 90 hours."""
    said = problems(tmp_path, GOOD + "train:\n  lr: 6e-4\n  max_hours: 1:30\n  seed: 0o17x\n  warmup_share: 1 %\n")
    for part in (
        "my recipe.yaml, line 9: train.max_hours",
        "'1:30'",
        "line 10: train.seed",
        "'0o17x'",
        "line 11: train.warmup_share",
        "'1 %'",
    ):
        assert part in said, said


def test_octal_is_a_number_of_yaml_1_2(tmp_path):
    assert recipe(tmp_path, GOOD, "train.seed=0o17").train.seed == 15


def test_the_language_no_stays_a_string(tmp_path):
    """YAML 1.1 reads Norwegian as false."""
    assert list(recipe(tmp_path).corpus.sources[1].languages) == ["no"]


def test_an_unknown_field_names_the_nearest(tmp_path):
    said = problems(tmp_path, GOOD + "vocab:\n  min_use: 3\n")
    assert "line 8: vocab.min_use" in said and "no such field" in said and "did you mean `min_uses`?" in said


def test_an_unknown_field_on_the_command_line_is_refused_too(tmp_path):
    assert "did you mean `max_minutes`?" in problems(tmp_path, GOOD, "train.max_minute=3")


def test_unknown_fields_inside_a_list_are_named_with_their_place(tmp_path):
    said = problems(tmp_path, GOOD.replace("role: new", "rolle: new"))
    assert "corpus.sources[0].rolle" in said and "did you mean `role`?" in said


def test_a_missing_section_is_named(tmp_path):
    assert "model" in problems(tmp_path, GOOD.replace("model: {base: base}", "")) and "missing" in problems(
        tmp_path, GOOD.replace("model: {base: base}", "")
    )


def test_broken_yaml_names_its_line(tmp_path):
    assert "line 3" in problems(tmp_path, "model: {base: x}\ncorpus:\n  sources: ]\n")


def test_a_key_twice_is_refused(tmp_path):
    """The second would silently win."""
    assert "line" in problems(tmp_path, GOOD + "train: {lr: 1e-4}\ntrain: {lr: 2e-4}\n")


def test_overrides_reach_into_lists_and_empty_sections(tmp_path):
    got = recipe(tmp_path, GOOD, "corpus.sources[1].role=replay", "corpus.sources.0.name=law", "keep.mixback=off")
    assert got.corpus.sources[0].name == "law" and got.keep.mixback == "off"


def test_a_list_item_that_is_not_there_is_an_error(tmp_path):
    assert "the list has 2" in problems(tmp_path, GOOD, "corpus.sources[7].name=x")


def test_a_missing_file_is_an_error_with_the_near_name(tmp_path):
    recipe(tmp_path)
    with pytest.raises(UserError, match=r"did you mean `my recipe\.yaml`"):
        load_recipe(tmp_path / "my recipes.yaml")


def test_the_name_comes_from_the_file(tmp_path):
    assert recipe(tmp_path).name == "my-recipe"


def test_a_recipe_is_frozen(tmp_path):
    with pytest.raises(Exception, match="frozen"):
        recipe(tmp_path).train.seed = 3


def test_the_reference_lists_every_field_once():
    paths = [f.path for f in reference()]
    assert len(paths) == len(set(paths)) > 40 and "train.lr_scale.new_rows" in paths and "corpus.sources[].text_field" in paths
