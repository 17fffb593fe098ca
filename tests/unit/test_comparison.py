"""Comparisons of two evaluations, from run folders whose scores are known, and against scipy."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from html_pages import (
    assert_ids_are_unique_and_referred_ones_there,
    assert_needs_nothing_else,
    in_browser,
    keys,
    parse,
    table,
)
from run_folders import change_summary, write_run
from voxclick.cli.compare import compare, short_names
from voxclick.errors import UsageError
from voxclick.evaluation.report.comparison import compare_runs, write_comparison
from voxclick.evaluation.report.comparison_page import caution, remarks, verdict
from voxclick.evaluation.report.paired import Moment, Untested, paired_difference
from voxclick.evaluation.report.run_folder import read_run

OLD = {"a": [0.2, 0.4, 0.6], "b": [0.5, 0.5, 0.5], "c": [0.1, 0.2, 0.9], "old <only>": [0.0] * 3}
NEW = {"new only": [0.0] * 3, "c": [0.1, 0.3, 0.8], "b": [0.5, 0.6, 0.7], "a": [0.3, 0.8, 0.7]}


def runs(tmp_path, old=OLD, new=NEW, **more):
    folders = (
        write_run(tmp_path / "old", old, **more),
        write_run(tmp_path / "new", new, **more),
    )
    return read_run(folders[0]), read_run(folders[1])


@pytest.fixture
def comparison(tmp_path):
    return compare_runs(*runs(tmp_path), ("old", "new"))


def result(comparison, metric, moment):
    (row,) = [r for r in comparison.differences if (r.metric, r.moment) == (metric, moment)]
    return row.result


def sample(seed, count):
    generator = np.random.default_rng(seed)
    a = generator.random(count)
    return a, np.clip(a + generator.normal(0.03, 0.05, count), 0, 1)


def test_differences_by_hand(comparison):
    last = result(comparison, "dice", Moment.last)
    # a: 0.7 - 0.6, b: 0.7 - 0.5, c: 0.8 - 0.9
    assert (last.pairs, last.higher_in_a, last.higher_in_b) == (3, 1, 2)
    assert last.mean_a == pytest.approx((0.6 + 0.5 + 0.9) / 3)
    assert last.mean_b == pytest.approx((0.7 + 0.7 + 0.8) / 3)
    assert last.difference == pytest.approx(0.2 / 3)
    # ranks of 0.1, 0.2, -0.1 are 1.5, 3, 1.5; of 8 signs, 6 give a sum as far from 3 or farther
    assert last.p_value == pytest.approx(6 / 8)
    assert result(comparison, "dice", Moment.first).difference == pytest.approx(0.1 / 3)
    mean = result(comparison, "dice", Moment.mean)
    assert mean.mean_a == pytest.approx((0.4 + 0.5 + 0.4) / 3)
    assert mean.difference == pytest.approx((0.2 + 0.1 + 0.0) / 3)
    assert mean.differing == 2  # c has 0.1, 0.3, 0.8 after 0.1, 0.2, 0.9: the same mean
    assert result(comparison, "fpv_ml", Moment.last).difference == pytest.approx(-10 * 0.2 / 3)
    assert comparison.main == last


def test_cases_are_matched_by_name(comparison):
    assert comparison.cases == ("a", "b", "c")
    assert comparison.left_out == (("old <only>",), ("new only",))
    rows = comparison.table
    assert len(rows) == 3 * 7 * 3
    c = rows.loc[(rows.case == "c") & (rows.metric == "dice") & (rows.moment == "last")]
    assert c[["a", "b", "difference"]].to_numpy().tolist() == [[0.9, 0.8, pytest.approx(-0.1)]]


@pytest.mark.parametrize("count", [7, 40, 200])
def test_test_and_interval_are_scipys(count):
    a, b = sample(count, count)
    ours = paired_difference(a, b, seed=3)
    assert ours.p_value == pytest.approx(stats.wilcoxon(b, a).pvalue, rel=1e-6)
    # without the noise of subtraction, resamples of the same sum are equal to each other
    theirs = stats.bootstrap(
        (np.round(b - a, 9),), np.mean, n_resamples=9999, random_state=np.random.default_rng(3)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)
    assert ours.difference == pytest.approx(np.mean(b - a))


def test_p_counts_the_signs_that_are_as_extreme():
    """The definition: all 2**n signs of the ranks are equally likely."""
    a, b = sample(1, 9)
    differences = b - a
    ranks = stats.rankdata(np.abs(differences))
    sums = np.array([np.dot(signs, ranks) for signs in itertools.product((0, 1), repeat=9)])
    middle = ranks.sum() / 2
    observed = abs(ranks[differences > 0].sum() - middle)
    expected = np.mean(np.abs(sums - middle) >= observed - 1e-9)
    assert paired_difference(a, b).p_value == pytest.approx(expected)


def test_the_interval_of_many_cases_is_that_of_the_normal_distribution():
    a, b = sample(2, 1000)
    ours = paired_difference(a, b)
    half = 1.96 * np.std(b - a, ddof=1) / math.sqrt(1000)
    assert ours.low == pytest.approx(ours.difference - half, abs=0.1 * half)
    assert ours.high == pytest.approx(ours.difference + half, abs=0.1 * half)


@settings(deadline=None, max_examples=8)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12).filter(
        lambda pairs: len({round(b - a, 9) for a, b in pairs}) > 1
    )
)
def test_exchanging_the_models_exchanges_the_signs(pairs):
    a, b = (np.array(values) for values in zip(*pairs, strict=True))
    ours, other = paired_difference(a, b), paired_difference(b, a)
    assert other.difference == pytest.approx(-ours.difference)
    assert other.p_value == pytest.approx(ours.p_value)
    assert (other.higher_in_a, other.higher_in_b) == (ours.higher_in_b, ours.higher_in_a)
    lowest, highest = np.min(b - a), np.max(b - a)
    assert lowest - 1e-8 <= ours.low <= ours.high <= highest + 1e-8


def test_the_same_seed_gives_the_same_interval():
    a, b = sample(4, 12)
    assert paired_difference(a, b, seed=1) == paired_difference(a, b, seed=1)
    assert paired_difference(a, b, seed=1) != paired_difference(a, b, seed=2)


def test_what_has_no_test():
    same = paired_difference(np.array([0.1, 0.5, 0.7]), np.array([0.1, 0.5, 0.7]))
    assert same.untested is Untested.no_difference
    assert math.isnan(same.p_value)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    lone = paired_difference(np.array([0.1, math.nan]), np.array([0.4, 0.5]))
    assert lone.untested is Untested.too_few
    assert lone.pairs == 1
    assert lone.difference == pytest.approx(0.3)
    assert math.isnan(lone.p_value)
    assert math.isnan(lone.low)
    none = paired_difference(np.array([math.nan]), np.array([0.5]))
    assert none.pairs == 0
    assert math.isnan(none.mean_a)


def test_equal_differences_have_an_interval_of_one_value_and_a_test():
    shifted = paired_difference(np.array([0.1, 0.3, 0.7]), np.array([0.2, 0.4, 0.8]))
    assert (shifted.low, shifted.high) == pytest.approx((0.1, 0.1))
    assert shifted.p_value == pytest.approx(2 / 2**3)


def test_pairs_where_a_score_is_undefined_are_left_out():
    a, b = sample(5, 10)
    with_gaps = paired_difference(np.append(a, [math.nan, 0.5]), np.append(b, [0.5, math.nan]))
    assert with_gaps == paired_difference(a, b)
    with pytest.raises(UsageError, match="as many values"):
        paired_difference(a, b[1:])


def test_an_undefined_step_leaves_the_mean_undefined(tmp_path):
    """Lesion precision is undefined where nothing is predicted."""
    found = compare_runs(
        *runs(tmp_path, {"a": [0.0, 0.5], "b": [0.1, 0.5]}, {"a": [0.2, 0.5], "b": [0.2, 0.6]}),
        ("old", "new"),
    )
    assert result(found, "lesion_precision", Moment.first).pairs == 1
    assert result(found, "lesion_precision", Moment.last).pairs == 2
    assert result(found, "lesion_precision", Moment.mean).pairs == 1


def test_repeats_are_averaged_before_cases_are_compared(tmp_path):
    old = {"a": [[0.2, 0.4], [0.4, 0.6]], "b": [[0.1, 0.1], [0.3, 0.5]]}
    found = compare_runs(*runs(tmp_path, old, {"a": [0.5, 0.5], "b": [0.5, 0.5]}), ("old", "new"))
    last = result(found, "dice", Moment.last)
    assert last.pairs == 2
    assert (last.mean_a, last.difference) == (pytest.approx(0.4), pytest.approx(0.1))
    assert last.untested is None
    assert (last.higher_in_a, last.higher_in_b) == (0, 1)  # a: the same, b: 0.5 after 0.3


def test_lesion_free_cases_stand_apart(tmp_path):
    a = read_run(write_run(tmp_path / "a", OLD, lesion_free={"n": [0.0, 0.0, 1.0]}))
    b = read_run(write_run(tmp_path / "b", NEW, lesion_free={"n": [0.0, 1.0, 1.0]}))
    found = compare_runs(a, b, ("old", "new"))
    assert found.cases == ("a", "b", "c")
    assert found.lesion_free == ("n",)
    assert result(found, "dice", Moment.last).pairs == 3
    rows = {(row.metric, row.moment): row.result for row in found.lesion_free_differences}
    assert {metric for metric, _ in rows} == {"dice", "fpv_ml"}
    assert rows["dice", Moment.mean].difference == pytest.approx(1 / 3)
    assert rows["fpv_ml", Moment.mean].difference == pytest.approx(-10 / 3)
    (remark,) = [line for line in remarks(found) if line.startswith("Lesion-free")]
    assert "no test as fewer than two pairs: Dice (first, last, mean)" in remark


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({"protocol": "corrective"}, {}, "their protocol differs .corrective in old, largest-err"),
        ({"steps": 3}, {"steps": 2}, "their number of steps differs .3 in old, 2 in new"),
    ],
)
def test_other_measurements_are_refused(tmp_path, old, new, message):
    a = read_run(write_run(tmp_path / "a", OLD, **old))
    b = read_run(write_run(tmp_path / "b", NEW, **new))
    with pytest.raises(UsageError, match=message):
        compare_runs(a, b, ("old", "new"))


def test_other_cases_are_refused(tmp_path):
    a = read_run(write_run(tmp_path / "a", {"x": [0.1]}))
    b = read_run(write_run(tmp_path / "b", {"y": [0.1]}))
    with pytest.raises(UsageError, match="no case in common"):
        compare_runs(a, b, ("old", "new"))
    c = read_run(write_run(tmp_path / "c", {"y": [0.1]}, lesion_free={"x": [1.0]}))
    with pytest.raises(UsageError, match="x: lesion-free in only one"):
        compare_runs(a, c, ("old", "new"))


def test_other_labels_are_refused(tmp_path):
    folder = write_run(tmp_path / "b", NEW)
    scores = pd.read_csv(folder / "scores.csv")
    scores.assign(dice_liver=0.5, dice_tumor=0.5).to_csv(folder / "scores.csv", index=False)
    a = read_run(write_run(tmp_path / "a", OLD))
    with pytest.raises(UsageError, match=r"list of labels differs .one label in old, liver, tumor"):
        compare_runs(a, read_run(folder), ("old", "new"))


def test_the_files_say_what_the_comparison_says(comparison, tmp_path):
    write_comparison(comparison, tmp_path / "out" / "deep")
    cases = pd.read_csv(tmp_path / "out/deep/comparison.csv")
    assert list(cases.columns) == [
        "case",
        "empty_label",
        "metric",
        "moment",
        "a",
        "b",
        "difference",
    ]
    assert cases.difference.to_numpy() == pytest.approx((cases.b - cases.a).to_numpy(), abs=2e-6)
    summary = json.loads((tmp_path / "out/deep/comparison.json").read_text())
    assert summary["cases"] == 3
    assert summary["a"]["only_here"] == ["old <only>"]
    (dice,) = [
        row for row in summary["differences"] if (row["metric"], row["moment"]) == ("dice", "last")
    ]
    assert dice["difference"] == pytest.approx(0.2 / 3)
    assert dice["p_value"] == pytest.approx(6 / 8)
    assert (dice["pairs"], dice["untested"]) == (3, None)


def test_the_page(comparison, tmp_path):
    write_comparison(comparison, tmp_path)
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert_needs_nothing_else(text)
    page = parse(text)
    assert_ids_are_unique_and_referred_ones_there(page)
    plots = page.all("svg", role="img")
    assert [plot.attributes["data-figure"] for plot in plots] == [
        "curve-dice",
        "curve-nsd",
        "curve-fpv_ml",
        "curve-fnv_ml",
        "differences",
    ]
    ends = [shown.text for shown in plots[0].all("text")]
    assert {"0.667  A: old", "0.733  B: new"} <= set(ends)
    # the largest gain is drawn last, on top
    bars = [shown.text for shown in plots[-1].all("text") if shown.text in ("a", "b", "c")]
    assert bars == ["c", "a", "b"]
    rows = table(page, "differences")
    assert len(rows) == 21
    assert rows[1][:6] == ["Dice", "last", "3", "0.667", "0.733", "+0.067"]
    assert rows[1][-1] == "0.750"
    assert table(page, "cases")[2] == [
        "c",
        "0.900",
        "0.800",
        "−0.100",
        "−0.100",
        "+1.00",
        "+2.00",
    ]
    assert [float(key) for key in keys(page, "cases", 3)] == pytest.approx([0.1, 0.2, -0.1])
    assert "In A (old) alone, and therefore left out (1): old <only>." in page.text
    assert "21 comparisons" in page.text


def test_settings_that_differ_are_listed(tmp_path):
    folder = write_run(tmp_path / "new", NEW)
    change_summary(
        folder, model="runs/other/model.safetensors", data="elsewhere", backend="openvino"
    )
    found = compare_runs(
        read_run(write_run(tmp_path / "old", OLD)), read_run(folder), ("old", "new")
    )
    write_comparison(found, tmp_path)
    page = parse((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    rows = {row[0]: row[1:] for row in table(page, "settings")}
    assert rows["model"] == ["runs/tiny/model.safetensors", "runs/other/model.safetensors"]
    assert rows["backend"] == ["torch", "openvino"]
    assert "inference.kind" not in rows
    assert "matched by their names: A read them from data/phantoms, B from elsewhere" in page.text


def verdict_of(tmp_path, gains):
    old = {str(n): [0.1, 0.4 + n / 500] for n in range(len(gains))}
    new = {str(n): [0.1, 0.4 + n / 500 + gain] for n, gain in enumerate(gains)}
    return " ".join(verdict(compare_runs(*runs(tmp_path, old, new), ("old", "new"))))


def test_the_verdict_says_which_is_better_and_whether_that_may_be_chance(tmp_path):
    better = verdict_of(tmp_path / "1", [0.1, 0.11, 0.12, 0.13, 0.14, 0.15])
    assert (
        "After 1 step, B (new) has the higher mean Dice, 0.530 against 0.405 for A (old)" in better
    )
    assert "B − A = +0.125 (95 % interval +0.11" in better
    assert "B is better in 6 of 6 cases, A in 0." in better
    assert "tells the two apart in this (p = 0.031)" in better
    worse = verdict_of(tmp_path / "2", [-0.1, -0.11, -0.12, -0.13, -0.14, -0.15])
    assert "A (old) has the higher mean Dice, 0.405 against 0.280 for B (new)" in worse
    unclear = verdict_of(tmp_path / "3", [0.1, -0.11, 0.12, -0.13, 0.14, -0.145, 0.01])
    assert "does not tell them apart" in unclear
    few = verdict_of(tmp_path / "4", [0.1, 0.11, 0.12, 0.13, 0.14])
    assert "cannot tell them apart (p = 0.062): with 5 cases that differ" in few
    same = verdict_of(tmp_path / "5", [0.0, 0.0])
    assert "A (old) and B (new) have the same mean Dice, 0.401" in same
    assert "There is no test, as no pair differs." in same


def test_one_prediction_alone_is_compared(tmp_path):
    found = compare_runs(*runs(tmp_path, {"a": [0.2]}, {"a": [0.6]}), ("old", "new"))
    assert {row.moment for row in found.differences} == {Moment.first}
    assert found.main.difference == pytest.approx(0.4)
    write_comparison(found, tmp_path)
    text = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "Without clicks, B (new) has the higher mean Dice" in text
    assert "after 0 steps" not in text
    assert "7 comparisons" in caution(found)


def test_lesion_free_cases_alone_are_compared(tmp_path):
    healthy = [{"n": [0.0, 1.0], "m": [0.0, 0.0]}, {"n": [0.0, 1.0], "m": [0.0, 1.0]}]
    a, b = (
        read_run(write_run(tmp_path / str(place), {}, lesion_free=cases))
        for place, cases in enumerate(healthy)
    )
    found = compare_runs(a, b, ("old", "new"))
    assert found.main.difference == pytest.approx(0.5)
    assert "B is better in 1 of 2 lesion-free cases" in " ".join(verdict(found))
    write_comparison(found, tmp_path)
    page = parse((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    assert not page.all("svg")
    assert len(table(page, "lesion-free")) == 6


def test_many_cases_are_drawn_without_names(tmp_path):
    old = {f"case {n}": [0.1, 0.4] for n in range(50)}
    new = {f"case {n}": [0.1, 0.4 + n / 500] for n in range(50)}
    write_comparison(compare_runs(*runs(tmp_path, old, new), ("old", "new")), tmp_path)
    page = parse((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    drawn = page.one("svg", data_figure="differences")
    assert not [shown for shown in drawn.all("text") if shown.text.startswith("case")]
    assert len(table(page, "cases")) == 50


def command(*arguments):
    app = typer.Typer()
    app.command()(compare)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_leaves_three_files_and_prints_the_result(tmp_path):
    runs(tmp_path)
    done = command(
        tmp_path / "old", tmp_path / "new", "--out", tmp_path / "out", "--name-b", "B[x]"
    )
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert "B (B[x]) has the higher mean Dice, 0.733 against 0.667 for A (old)" in shown
    assert "comparison.html" in shown
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"comparison.csv", "comparison.json", "comparison.html"}


def test_the_command_refuses_what_it_cannot_compare(tmp_path):
    runs(tmp_path)
    same = command(tmp_path / "old", tmp_path / "new/../old", "--out", tmp_path / "out")
    assert isinstance(same.exception, UsageError)
    assert "are the same folder" in str(same.exception)
    missing = command(tmp_path / "old", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert isinstance(missing.exception, UsageError)
    assert not (tmp_path / "out").exists()


def test_runs_are_called_by_the_ends_of_their_paths(tmp_path):
    assert short_names(tmp_path / "x/old", tmp_path / "y/new") == ("old", "new")
    assert short_names(tmp_path / "x/eval", tmp_path / "y/eval") == ("x/eval", "y/eval")
    assert short_names(tmp_path / "eval", tmp_path / "eval/eval") == (
        f"{tmp_path.name}/eval",
        "eval/eval",
    )


def test_a_browser_sorts_by_the_difference(comparison, tmp_path):
    write_comparison(comparison, tmp_path)
    click = "document.querySelectorAll('#cases thead button')[3].click();"
    page = in_browser(tmp_path / "comparison.html", tmp_path, click)
    assert [row[3] for row in table(page, "cases")] == ["−0.100", "+0.100", "+0.200"]
    shown = page.one("html").attributes
    assert shown["data-plots"] == "5/5"
    assert shown["data-overflow"] == "false"
