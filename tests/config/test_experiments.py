"""The key `serving.experiments`: what it takes, and the sentences for what does not go together."""

import pytest

from rayrec.config import ConfigError, dump, load, with_values

MORE = "{arms: {control: 0.5, more: {share: 0.4, changes: {selection.explore: 0.2}}}}"


def experiments(text: str) -> str:
    return f"serving.experiments={text}"


def test_arms_have_shares_and_changes() -> None:
    config = load(None, [experiments(f"{{fresh: {MORE}, aa: {{arms: {{a: 0.5, b: 0.5}}, until: 2026-12-24}}}}")])
    fresh, same = config.serving.experiments.values()
    assert (fresh.control, fresh.share, fresh.arms["more"].changes) == ("control", 0.9, {"selection.explore": 0.2})
    assert str(same.until) == "2026-12-24"
    assert with_values(config, {}) == config
    assert dump(config)["serving"]["experiments"]["aa"]["until"] == "2026-12-24"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{a: {arms: {one: 0.5}}}", "an experiment has two arms or more, the control first"),
        ("{a: {arms: {one: 0.5, two: 0.6}}}", "serving.experiments.a: the shares of the arms add up to 1.1; make them 1 or less"),
        ("{a: {arms: {one: 0.5, two: 0}}}", "serving.experiments.a.arms.two: must be more than 0"),
        ("{a: {arms: {one: 0.5, 't o': 0.5}}}", "the arm 't o' needs another name; a name has 1 to 32 letters"),
        ("{a=b: {arms: {one: 0.5, two: 0.5}}}", "the experiment 'a=b' needs another name"),
        ("{a: {arms: {one: 0.5, two: {share: 0.5, change: {}}}}}", "did you mean 'serving.experiments.a.arms.two.changes'?"),
        ("{a: {arms: {one: 0.5, two: 0.5}, slt: x}}", "did you mean 'serving.experiments.a.salt'?"),
        ("{a: {arms: {one: 0.5, two: 0.5}, until: soon}}", "serving.experiments.a.until: must be a date such as 2026-12-24"),
        ("{a: {arms: {one: {share: 0.5, changes: {selection.explore: 1}}, two: 0.5}}}", "the first arm, 'one', is the control"),
        ("{a: {arms: {one: 0.5, two: {share: 0.5, changes: {selection.explor: 1}}}}}", "did you mean 'selection.explore'?"),
        ("{a: {arms: {one: 0.5, two: {share: 0.5, changes: {recall.min_ctr: 0}}}}}", "recall.min_ctr can't differ between arms"),
        (
            "{a: {arms: {one: 0.5, two: {share: 0.5, changes: {recall.candidates: 0}}}}}",
            "serving.experiments.a.arms.two.changes: recall.candidates: must be 1 or more (got 0)",
        ),
        (
            "{a: {arms: {one: 0.5, two: 0.5}, layer: x}, b: {arms: {one: 0.1, two: 0.1}, layer: x}}",
            "the experiments a, b are of the layer 'x', in which a user takes part in one at most, but their shares add up to 1.2",
        ),
        (f"{{a: {MORE}, b: {MORE}}}", "the experiments a and b both change selection.explore"),
        (
            "{" + ", ".join(f"{name}: {{arms: {{a: 0.3, b: 0.3, c: 0.3}}}}" for name in "klmn") + "}",
            "the arms of all layers can be combined in 81 ways; at most 64 are served",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(None, [experiments(text)])
    assert sentence in str(refused.value)


def test_experiments_of_one_layer_may_change_the_same_key() -> None:
    less = MORE.replace("0.5", "0.05").replace("0.4", "0.05")
    members = [f"{name}: {{layer: pages, {less[1:]}" for name in ("a", "b")]
    assert len(load(None, [experiments(f"{{{', '.join(members)}}}")]).serving.experiments) == 2
