"""The report of an evaluation, from run folders whose scores are known."""

from __future__ import annotations

import base64
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from html_pages import (
    Element,
    assert_ids_are_unique_and_referred_ones_there,
    assert_needs_nothing_else,
    in_browser,
    keys,
    parse,
    table,
)
from run_folders import CIRCUMSTANCES, change_summary, write_run
from voxclick.errors import UsageError
from voxclick.evaluation.report.figures import Curve, CurveRole, draw_curves, moved_apart, shortened
from voxclick.evaluation.report.page import flattened, number, signed
from voxclick.evaluation.report.report import write_report
from voxclick.evaluation.report.run_folder import read_run, scores_by_case

DICE = {
    "PET_1": [0.5, 0.7, 0.9],
    "PET_2": [0.0, 0.4, 0.8],
    "PET_10": [0.3, 0.2, 0.1],
    "<b>x</b>": [0.2, 0.3, 0.6],
    "007": [0.4, 0.5, 0.7],
}
LESION_FREE = {"NA": [0.0, 1.0, 1.0], "healthy": [0.0, 0.0, 0.0]}
BASELINES = {"suvmax-41": 0.2, "best-threshold": 0.05, "no-clicks": 0.3, "ours <i>": 0.1}
FAILED = {"broken & lost": "GeometryError: <image> and label differ"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("runs") / "run",
        DICE,
        lesion_free=LESION_FREE,
        baselines=BASELINES,
        failed=FAILED,
        pictures=["PET_1", "007", "healthy"],
    )


@pytest.fixture(scope="module")
def report(folder):
    write_report(read_run(folder), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(report) -> Element:
    return parse(report.read_text(encoding="utf-8"))


def test_the_page_needs_no_other_file(report):
    assert_needs_nothing_else(report.read_text(encoding="utf-8"))


def test_ids_are_unique_and_what_is_referred_to_is_there(page):
    assert_ids_are_unique_and_referred_ones_there(page)


def test_the_page_has_a_language_a_title_and_headings_in_order(page):
    assert page.one("html").attributes["lang"] == "en"
    assert page.one("title").text == page.one("h1").text == "Evaluation of tiny/model.safetensors"
    levels = [int(e.tag[1]) for e in page.all() if re.fullmatch(r"h[1-6]", e.tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert "not a medical device" in page.one("footer").text


def test_it_opens_with_what_was_measured(page):
    protocol, measured, result = (p.text for p in page.one("header").all("p"))
    assert protocol == (
        "Protocol largest-error: in each step, a simulated user clicks once, in the middle of the "
        "largest error; the first prediction and the one after each of 2 steps are scored."
    )
    assert measured == (
        "Measured on 5 cases with lesions and 2 lesion-free cases of data/phantoms. 1 case has no "
        "scores."
    )
    # means of the first and of the last column of DICE
    assert result == (
        "Mean Dice rises from 0.280 without clicks to 0.620 after 2 steps; the worst case, PET_10, "
        "ends at 0.100."
    )


def test_key_figures(page):
    figures = {
        div.one("dt").text: div.one("dd", **{"class": "value"}).text
        for div in page.one("dl", **{"class": "key-figures"}).all("div")
    }
    assert figures == {
        "Dice, first prediction": "0.280",
        "Dice": "0.620",
        "NSD": "0.670",
        "FPV, ml": "3.80",  # 10 * (1 - 0.62)
        "FNV, ml": "7.60",
        "Steps to Dice 0.85": "2.0",
        "Seconds a step": "0.25",
    }


def test_every_curve_is_there_with_every_method_and_its_last_mean(page):
    plots = page.all("svg", role="img")
    assert [plot.attributes["data-figure"] for plot in plots] == [
        "curve-dice",
        "curve-nsd",
        "curve-fpv_ml",
        "curve-fnv_ml",
    ]
    shown = [text.text for text in plots[0].all("text")]
    for label in (
        "0.620  model",
        "0.440  41 % of local SUVmax",  # 0.62 - 0.2, but PET_10 stays at 0 rather than at -0.1
        "0.570  best threshold, oracle",
        "0.360  first prediction",
        "0.520  ours <i>",
    ):
        assert label in shown
        assert label.replace("  ", " ").split(" ", 1)[1] in plots[0].attributes["aria-label"]


def test_the_oracle_alone_is_dashed(page):
    dashed = [
        path
        for path in page.all("svg")[0].all("path")
        if "stroke-dasharray" in path.attributes.get("style", "")
    ]
    assert len(dashed) == 1
    plain = draw_curves([Curve("model", np.ones((2, 3)))], "x", "", y_title="", is_share=True)
    assert "stroke-dasharray" not in plain


def test_means_of_every_step(page):
    rows = table(page, "steps")
    assert [row[:2] for row in rows] == [["0", "0.280"], ["1", "0.420"], ["2", "0.620"]]
    # quartiles of 0.1, 0.6, 0.7, 0.8, 0.9
    assert rows[-1][2] == "0.600 to 0.800"


def test_a_row_per_case_with_lesions_and_no_other(page):
    rows = table(page, "cases")
    assert [row[0] for row in rows] == list(DICE)
    #           case     first    Dice     NSD      FPV     FNV     recall  clicks  seconds
    assert rows[0] == ["PET_1", "0.500", "0.900", "0.950", "1.00", "2.00", "0.900", "2", "0.75"]
    headings = [heading.text for heading in page.one("table", id="cases").one("thead").all("th")]
    assert headings == [
        "Case",
        "Dice, first",
        "Dice",
        "NSD",
        "FPV, ml",
        "FNV, ml",
        "Lesion recall",
        "Clicks",
        "Seconds, all steps",
    ]


def test_tables_are_sorted_by_numbers(page):
    assert keys(page, "cases", 0) == list(DICE)
    assert [float(key) for key in keys(page, "cases", 2)] == [0.9, 0.8, 0.1, 0.6, 0.7]
    heading = page.one("table", id="cases").one("thead")
    assert len(heading.all("button", type="button")) == len(heading.all("th", scope="col")) == 9
    assert {th.attributes["aria-sort"] for th in heading.all("th")} == {"none"}


def test_foreign_text_is_text(page, report):
    assert not page.all("b")
    assert not page.all("i")
    assert "<b>x</b>" in [row[0] for row in table(page, "cases")]
    (failure,) = page.one("ul", **{"class": "failures"}).all("li")
    assert failure.text == "broken & lost: GeometryError: <image> and label differ"
    assert "<image>" not in report.read_text(encoding="utf-8")


def test_lesion_free_cases_stand_apart(page):
    assert table(page, "lesion-free-steps") == [
        ["0", "0.000", "10.00"],
        ["1", "0.500", "5.00"],
        ["2", "0.500", "5.00"],
    ]
    assert table(page, "lesion-free-cases") == [
        ["NA", "0.000", "1.000", "0.00", "2", "0.75"],
        ["healthy", "0.000", "0.000", "10.00", "2", "0.75"],
    ]


def test_methods_are_compared_at_the_last_step(page):
    rows = {row[0]: row[1] for row in table(page, "methods")}
    assert rows == {
        "model": "0.620",
        "41 % of local SUVmax": "0.440",
        "best threshold, oracle": "0.570",
        "first prediction": "0.360",
        "ours <i>": "0.520",
    }


def test_numbers_of_clicks(page):
    # after clicks: 0.9 reaches all at step 2, 0.8 reaches 0.80 there, three never reach it
    assert table(page, "number-of-clicks")[0][:3] == ["≥ 0.80", "2.00", "3"]


def test_best_median_and_worst_case_are_shown(page, folder):
    figures = page.all("figure", **{"class": "case"})
    assert [figure.one("h3").text for figure in figures] == [
        "Best: PET_1",
        "Median: 007",
        "Worst: PET_10",
    ]
    for figure, case in zip(figures[:2], ("PET_1", "007"), strict=True):
        image = figure.one("img")
        kind, _, encoded = image.attributes["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(encoded) == (folder / f"pictures/{case}.png").read_bytes()
        assert image.attributes["alt"].startswith(f"Case {case}: the true mask")
    assert "no picture of this case" in figures[2].text
    assert figures[1].one("figcaption").text == "Dice 0.400 without clicks, 0.700 after 2 steps."


def test_settings_are_folded_away(page):
    block = page.all("details")[-1]
    assert "open" not in block.attributes
    facts = dict(
        zip((d.text for d in block.all("dt")), (d.text for d in block.all("dd")), strict=True)
    )
    assert facts["model"] == CIRCUMSTANCES["model"]
    assert facts["window"] == "16, 16, 16"
    assert facts["torch"] == "2.13.0"
    assert facts["device"] == "AMD EPYC"
    assert facts["finished"] == "2026-11-24T08:10:00+00:00"


def test_the_same_run_gives_the_same_bytes(folder, report, tmp_path):
    write_report(read_run(folder), tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == report.read_bytes()


def test_repeats_are_averaged_first(tmp_path):
    run = read_run(
        write_run(tmp_path, {"a": [[0.2, 0.4], [0.4, 0.8]], "b": [[0.0, 0.1], [0.0, 0.3]]})
    )
    assert scores_by_case(run.table, "dice").to_numpy() == pytest.approx(
        np.array([[0.3, 0.6], [0.0, 0.2]])
    )
    # precision is undefined without a prediction: in neither repeat of b, in both of a
    assert np.isnan(scores_by_case(run.table, "lesion_precision").loc["b", 0])
    write_report(run, tmp_path / "report.html")
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [row[2] for row in table(page, "cases")] == ["0.600", "0.200"]
    assert "clicked through 2 times" in page.one("header").text


def test_what_is_undefined_is_a_dash_and_sorted_last(tmp_path):
    folder = write_run(tmp_path, {"a": [0.0], "b": [0.5]})
    text = (folder / "scores.csv").read_text()
    # a's recall, which follows Dice, NSD, FPV and FNV
    (folder / "scores.csv").write_text(text.replace("20.000000,0.000000,", "20.000000,,", 1))
    write_report(read_run(folder), tmp_path / "report.html")
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert [row[6] for row in table(page, "cases")] == ["–", "0.500"]
    assert keys(page, "cases", 6) == ["", "0.5"]


def test_other_protocols_have_other_words(tmp_path):
    folder = write_run(
        tmp_path, {"a": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}, protocol="cvpr2025", steps=5
    )
    write_report(read_run(folder), tmp_path / "report.html")
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "a box around every class" in page.one("header").text
    assert "from 0.100 with the box alone to 0.600 after 5 steps" in page.one("header").text
    rows = dict(table(page, "challenge"))
    assert rows["dsc_auc"] == "1.6000"  # (0.2 + 0.6) / 2 + 0.3 + 0.4 + 0.5
    assert [e.text for e in page.all("h3") if ":" in e.text] == ["The only case: a"]


def test_labels_have_a_table_of_their_own(tmp_path):
    folder = write_run(tmp_path, {"a": [0.1, 0.5]})
    change_summary(folder, dice_per_label={"liver": [0.8, 0.9], "tumor": [None, 0.25]})
    write_report(read_run(folder), tmp_path / "report.html")
    page = parse((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert table(page, "labels") == [["liver", "0.800", "0.900"], ["tumor", "–", "0.250"]]


@pytest.mark.parametrize(
    ("dice", "lesion_free", "titles"),
    [
        ({"a": [0.4]}, {}, ["The only case: a"]),
        ({"a": [0.4, 0.5], "b": [0.1, 0.2]}, {}, ["Best: a", "Worst: b"]),
        ({}, {"n": [0.0, 1.0]}, []),
    ],
    ids=["one prediction", "two cases", "nothing but lesion-free cases"],
)
def test_small_evaluations_have_reports(tmp_path, dice, lesion_free, titles):
    folder = write_run(tmp_path, dice, lesion_free=lesion_free)
    write_report(read_run(folder), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = parse(text)
    assert [h.text for f in page.all("figure", **{"class": "case"}) for h in f.all("h3")] == titles
    assert len(page.all("svg")) == (4 if dice else 0)
    assert "nan" not in text.lower()
    assert "after 0 steps" not in text


def test_a_volume_far_off_makes_the_axis_logarithmic():
    near, far = Curve("model", np.full((4, 3), 2.0)), np.full((4, 3), 900.0)
    drawn = draw_curves(
        [near, Curve("suv", far, CurveRole.baseline)], "x", "", y_title="FPV", is_share=False
    )
    assert "FPV, logarithmic above 1" in drawn
    drawn = draw_curves(
        [near, Curve("suv", far / 100, CurveRole.baseline)], "x", "", y_title="FPV", is_share=False
    )
    assert "logarithmic" not in drawn


def test_titles_are_never_taken_for_formulas():
    drawn = draw_curves(
        [Curve(r"$\bad$ 症例", np.ones((1, 2)))], "x", "d", y_title="", is_share=True
    )
    assert r"$\bad$ 症例" in drawn


@given(
    st.lists(st.floats(0, 1), max_size=20),
    st.floats(0.001, 0.5),
)
def test_labels_keep_their_order_and_their_distance(places, gap):
    moved = moved_apart(places, gap)
    gap = min(gap, 1 / max(len(places) - 1, 1))
    order = np.argsort(places, kind="stable")
    assert np.all(np.diff(np.array(moved)[order]) >= gap - 1e-9)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in moved)


def test_labels_with_room_stay_where_they_are():
    assert moved_apart([0.9, 0.1, 0.5], 0.1) == [0.9, 0.1, 0.5]
    assert moved_apart([0.5, 0.5], 0.2) == pytest.approx([0.5, 0.7])
    assert moved_apart([1.0, 1.0, 1.0], 0.25) == [0.5, 0.75, 1.0]


def test_numbers_in_words():
    assert number(1234567.891, 1).text == "1\u202f234\u202f567.9"
    assert number(np.float64(0.25)).key == "0.25"
    assert (number(float("nan")).text, number(None).key) == ("–", "")
    assert [signed(v).text for v in (0.0514, -0.0514, 0.0004, -0.0004)] == [
        "+0.051",
        "−0.051",
        "0.000",
        "0.000",
    ]
    assert signed(float("nan")).text == "–"
    assert shortened("abcdefgh", 5) == "ab…gh"
    assert flattened({"a": {"b": [1, 2]}, "c": None}) == {"a.b": "1, 2", "c": "–"}


def test_names_of_cases_are_text(folder):
    run = read_run(folder)
    assert set(run.table.case) == {*DICE, *LESION_FREE}
    assert run.baselines is not None
    assert set(run.baselines.baseline) == set(BASELINES)


def test_no_name_of_a_case_leads_out_of_the_folder(tmp_path):
    folder = write_run(tmp_path / "run", {"../secret": [0.5], "b": [0.1]}, pictures=["b"])
    (folder / "secret.png").write_bytes(b"secret")
    run = read_run(folder)
    assert run.picture("../secret") is None
    assert run.picture("b") == folder / "pictures/b.png"


def test_a_run_without_baselines(tmp_path):
    run = read_run(write_run(tmp_path, {"a": [0.4, 0.5]}))
    assert run.baselines is None
    assert (run.protocol, run.steps, run.failed) == ("largest-error", 1, {})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "summary.json").unlink(), "has no summary.json"),
        (lambda run: (run / "scores.csv").unlink(), "no case has scores"),
        (lambda run: (run / "summary.json").write_text("{"), "summary.json: cannot be read"),
        (lambda run: (run / "summary.json").write_text("[]"), "says nothing of protocol"),
        (lambda run: change_summary(run, finished=None), "says nothing of finished"),
        (lambda run: (run / "scores.csv").write_text(""), "cannot be read as a table"),
        (lambda run: (run / "scores.csv").write_text("case,step\na,0\n"), "lacks the columns"),
        (
            lambda run: (run / "scores.csv").write_text(
                (run / "scores.csv").read_text().replace("0.400000", "much")
            ),
            "cannot be read as a table",
        ),
        (
            lambda run: (run / "scores.csv").write_text(
                (run / "scores.csv").read_text().replace("False", "no")
            ),
            "has no usable rows",
        ),
    ],
)
def test_a_folder_that_is_no_finished_evaluation_is_refused(tmp_path, spoil, message):
    folder = write_run(tmp_path, {"a": [0.4, 0.5]})
    read_run(folder)
    spoil(folder)
    with pytest.raises(UsageError, match=message) as refused:
        read_run(folder)
    assert str(tmp_path) in str(refused.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no finished evaluation"):
        read_run(tmp_path / "nowhere")


def test_a_browser_shows_all_of_it_and_sorts(report, tmp_path):
    click = (
        "const [, , dice] = document.querySelectorAll('#cases thead button');"
        "dice.click(); dice.click();"
        "document.querySelectorAll('#lesion-free-cases thead button')[0].click();"
    )
    page = in_browser(report, tmp_path, click)
    shown = page.one("html").attributes
    assert shown["data-pictures"] == "2/2"
    assert shown["data-plots"] == "4/4"
    assert shown["data-overflow"] == "false"
    assert shown["data-sortable-tables"] == "3"
    # the second click turns the order round
    assert [row[2] for row in table(page, "cases")] == ["0.900", "0.800", "0.700", "0.600", "0.100"]
    sorted_by = [
        th.attributes["aria-sort"] for th in page.one("table", id="cases").all("th", scope="col")
    ]
    assert sorted_by == ["none", "none", "descending", *["none"] * 6]
    assert [row[0] for row in table(page, "lesion-free-cases")] == ["healthy", "NA"]
