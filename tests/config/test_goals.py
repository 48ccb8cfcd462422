"""Goals, the formula that makes one score of them, and kinds of events of one's own."""

import numpy as np
import pytest

from rayrec.config import Config, ConfigError, Formula, Goal, dump, load, scored

GOALS = "ranker.goals={click: clicked, finish: {label: watch_share, at_least: 0.9}, watch: {label: watch_s, loss: quantiles}}"
NAMES = ["click", "finish", "watch"]


def test_a_formula_is_the_product_of_powers() -> None:
    values = np.random.default_rng(0).random((4, 3)).astype(np.float32) * 3
    formula = Formula.parse("click*finish^0.5 * watch ^ -.25", NAMES)
    expected = [click * finish**0.5 * watch**-0.25 for click, finish, watch in values.astype(float).tolist()]
    np.testing.assert_allclose(formula(values, NAMES), expected, rtol=1e-6)
    assert formula(values, NAMES).dtype == np.float32
    assert str(formula) == "click * finish^0.5 * watch^-0.25"
    assert Formula.parse(str(formula), NAMES) == formula


def test_scores_are_finite_whatever_the_values() -> None:
    values = np.array([[0, 86_400, 86_400], [1, 0, 0]], np.float32)
    for text in ("click^-5 * finish^-5 * watch^-5", "click^5 * finish^5 * watch^5", "finish^5 * watch^5 * click^-5"):
        scores = Formula.parse(text, NAMES)(values, NAMES)
        assert np.isfinite(scores).all()
        assert (scores >= 0).all()


def test_without_a_formula_the_first_goal_is_the_score_and_without_goals_all_stays_as_it_is() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert scored(values, NAMES, None).tolist() == [0, 3]
    assert scored(values, {name: Goal(label=name) for name in NAMES}, "watch").tolist() == [2, 5]
    assert scored(values[:, 0], [], None) is not None
    assert scored(values[:, 0], [], None).tolist() == [0, 3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "'' is neither a goal nor a power of one"),
        ("click + finish", "'click \\+ finish' is neither"),
        ("click * __import__('os')", "is neither a goal"),
        ("click^1e9", "'click\\^1e9' is neither"),
        ("click^9", "the power of 'click' is 9; a power is from -5 to 5"),
        ("click * click^2", "'click' is in the formula twice"),
        ("click * finis", "there is no goal 'finis'; did you mean 'finish'\\?"),
        ("click*" * 200, "at most 500 characters, not 1200"),
    ],
)
def test_what_is_no_formula_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Formula.parse(text, NAMES)


def test_goals_survive_a_round_trip() -> None:
    config = load(None, [GOALS, "selection.score=click * watch^0.3"])
    assert Config.model_validate(dump(config)) == config
    assert config.ranker.goals["click"] == Goal(label="clicked")
    assert config.ranker.click_goal == 0


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["ranker.goals={like: liked}"], "one of the goals must be the click"),
        (["ranker.goals={click: clicked, Like: liked}"], "the goal 'Like' needs another name"),
        (["ranker.goals={click: clicked, w: {label: watch_s, loss: quantiles, at_least: 3}}"], "at_least makes a label of yes"),
        (["ranker.goals={click: clicked, watch: {label: watch_s, loss: quantiles, quantiles: [0.5, 0.1]}}"], "ascending order"),
        ([GOALS, "ranker.shown_half_life=3"], "shown_half_life multiplies the click probability alone"),
        (["selection.score=click"], "selection.score: there is no goal 'click'; the ranker has no goals"),
        ([GOALS, "selection.score=clik"], "selection.score: there is no goal 'clik'; did you mean 'click'"),
        (
            [GOALS, "serving.experiments={e: {arms: {a: 0.5, b: {share: 0.5, changes: {selection.score: like}}}}}"],
            "experiments.e.arms.b.changes: there is no goal 'like'",
        ),
        (["serving.event_kinds=[click]"], "'click' can't be a kind of one's own"),
        (["serving.event_kinds=[watch_s]"], "'watch_s' can't be a kind"),
        (["serving.event_kinds=[share, share]"], "'share' is there 2 times"),
        (["serving.trusted_keys=[secret]"], "serving.trusted_keys.0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_with_a_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(None, overrides)


def test_an_arm_may_have_a_formula_of_its_own() -> None:
    arms = "serving.experiments={e: {arms: {a: 0.5, b: {share: 0.5, changes: {selection.score: click * finish}}}}}"
    assert load(None, [GOALS, arms]).selection.score is None
