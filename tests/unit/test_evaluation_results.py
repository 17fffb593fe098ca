"""Tables and summaries of an evaluation, from scores made up by hand."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from voxclick import Volume, write_volume
from voxclick.cli.evaluate import print_summary
from voxclick.datasets import Case
from voxclick.evaluation.case_records import (
    CaseRecord,
    digest_of_inputs,
    read_record,
    record_case,
    record_failure,
    write_record,
)
from voxclick.evaluation.metrics import MaskScores
from voxclick.evaluation.results import (
    _iou,
    baselines_table,
    scores_table,
    summarise,
    write_summary,
    write_table,
)
from voxclick.evaluation.runner import Step
from voxclick.evaluation.scoring import CaseScores
from voxclick.evaluation.settings import EvaluationSettings, Protocol

NAN = math.nan
NO_BASELINES = pd.DataFrame()


def case_scores(dice: float | dict[str, float], *, present: Sequence[str] = ("tumor",), **more):
    rest = {"nsd": 0.5, "fpv_ml": 1.0, "fnv_ml": 2.0} | more
    rest = {"lesion_recall": NAN, "lesion_precision": NAN, "dmm": NAN} | rest
    of_label = dice if isinstance(dice, dict) else {"tumor": dice}
    return CaseScores(
        {label: MaskScores(dice=value, **rest) for label, value in of_label.items()},
        tuple(present),
    )


def steps(scores: Sequence[CaseScores], baselines: dict[str, CaseScores] | None = None):
    """Half a second and eight windows for the first two, then nothing is left to correct."""
    return [
        Step(
            number=number,
            prompts=(),
            clicks=number,
            windows=8 if number < 2 else 0,
            seconds=0.5 if number < 2 else 0.0,
            scores=of_step,
            baselines=baselines or {},
        )
        for number, of_step in enumerate(scores)
    ]


def record(name: str, *dice: float, empty=False, repeats: Sequence[Sequence[float]] = ()):
    present = () if empty else ("tumor",)
    runs = repeats or [dice]
    return record_case(
        Case(name, (Path(f"{name}.nii"),), None),
        "",
        [steps([case_scores(value, present=present) for value in run]) for run in runs],
    )


def summary_of(*records: CaseRecord, steps: int = 2, **settings):
    table = scores_table(records)
    return summarise(table, baselines_table(records), EvaluationSettings(steps=steps, **settings))


def test_means_spread_and_improvement_by_hand():
    summary = summary_of(record("a", 0.2, 0.6, 0.5), record("b", 0.4, 0.8, 0.9))
    assert summary["dice"] == [0.3, 0.7, 0.7]
    assert summary["dice_std"] == pytest.approx([0.1, 0.1, 0.2])
    assert summary["fnv_ml"] == [2.0, 2.0, 2.0]
    assert summary["dmm"] == [None, None, None]
    assert summary["consistent_improvement"] == 0.75
    assert summary["auc"] == {"dice": pytest.approx((1.3 / 3 + 2.1 / 3) / 2, abs=1e-4), "nsd": 0.5}
    assert (summary["protocol"], summary["cases"], summary["steps"]) == ("largest-error", 2, 2)
    assert (summary["seconds_per_step"], summary["windows_per_step"]) == (0.5, 8)
    assert not {"lesion_free", "baselines", "challenge", "dice_std_over_repeats"} & set(summary)


def test_clicks_that_a_quality_takes():
    summary = summary_of(record("a", 0.9, 0.79, 0.85), record("b", 0.4, 0.8, 0.81))
    # Dice without clicks counts for nothing; b never comes to 0.85, which costs the two there are
    assert summary["number_of_clicks"]["dice"] == {
        "0.80": {"noc": 1.5, "nof": 0},
        "0.85": {"noc": 2.0, "nof": 1},
        "0.90": {"noc": 2.0, "nof": 2},
    }
    # IoU = Dice / (2 - Dice): 0.81 is 0.68
    assert summary["number_of_clicks"]["iou"]["0.80"] == {"noc": 2.0, "nof": 2}


def test_lesion_free_cases_stand_apart():
    summary = summary_of(record("a", 0.2, 0.6, 0.6), record("n", 0, 1, 1, empty=True))
    assert summary["cases"] == 2
    assert summary["dice"] == [0.2, 0.6, 0.6]
    assert summary["lesion_free"] == {
        "cases": 1,
        "dice": [0.0, 1.0, 1.0],
        "dice_std": [0.0, 0.0, 0.0],
        "fpv_ml": [1.0, 1.0, 1.0],
    }


def test_a_label_that_a_case_does_not_have_is_left_out_of_its_mean():
    both = case_scores({"liver": 0.4, "tumor": 0.6}, present=("liver", "tumor"))
    liver = case_scores({"liver": 0.8, "tumor": 1.0}, present=("liver",))
    records = [
        record_case(Case(name, (), None), "", [steps([scores])])
        for name, scores in (("a", both), ("b", liver))
    ]
    summary = summary_of(*records, steps=0)
    assert summary["dice_per_label"] == {"liver": [0.6], "tumor": [0.6]}
    assert summary["dice"] == [pytest.approx((0.5 + 0.8) / 2)]
    assert summary["fpv_ml"] == [2.0]  # of both labels together


def test_a_case_with_repeats_counts_once():
    summary = summary_of(
        record("a", repeats=[[0.2, 0.4, 0.6], [0.4, 0.6, 0.8]]),
        record("b", repeats=[[0.6, 0.6, 0.6], [0.6, 0.8, 1.0]]),
        repeats=2,
        protocol=Protocol.corrective,
    )
    assert summary["cases"] == 2
    assert summary["dice"] == pytest.approx([0.45, 0.6, 0.75])
    assert summary["dice_std"] == pytest.approx([0.15, 0.1, 0.05])
    # means of the repeats: 0.4 and 0.5, then 0.5 and 0.7, then 0.6 and 0.9
    assert summary["dice_std_over_repeats"] == pytest.approx([0.05, 0.1, 0.15])


def test_nothing_but_lesion_free_cases():
    summary = summary_of(record("n", 0, 1, 1, empty=True))
    assert summary["dice"] == []
    assert summary["consistent_improvement"] is None
    text = io.StringIO()
    print_summary(summary, Console(file=text), Path("out"))
    assert "1.0000" in text.getvalue()
    assert "1 lesion-free" in text.getvalue()


def test_nothing_but_failures():
    failed = {"a": "UnsupportedImageError: a.nii: damaged"}
    summary = summarise(scores_table([]), NO_BASELINES, EvaluationSettings(), failed)
    assert (summary["cases"], summary["failed"]) == (0, failed)
    print_summary(summary, Console(file=io.StringIO()), Path("out"))


def test_baselines_are_summed_up_alike():
    methods = {"suv-2.5": case_scores(0.1), "no-clicks": case_scores(0.2)}
    scores = [case_scores(0.5)] * 3
    records = [record_case(Case("a", (), None), "", [steps(scores, methods)])]
    summary = summary_of(*records)
    assert list(summary["baselines"]) == ["suv-2.5", "no-clicks"]
    assert summary["baselines"]["suv-2.5"]["dice"] == [0.1, 0.1, 0.1]
    assert summary["baselines"]["no-clicks"]["fnv_ml"] == [2.0, 2.0, 2.0]


def test_autopet4_leaves_lesion_free_cases_out_of_dice_but_not_of_excess():
    records = [
        record("a", *[0.5] * 11),
        record("n", *[0.0] * 11, empty=True),
    ]
    challenge = summary_of(*records, steps=10, protocol=Protocol.autopet4)["challenge"]
    assert challenge["dsc_auc"] == pytest.approx(5.0)
    assert challenge["fpv_auc"] == pytest.approx(10.0)


def test_autopet5_counts_failures_as_nothing():
    table = scores_table([record("a", *[0.8] * 6)])
    settings = EvaluationSettings(protocol=Protocol.autopet5)
    challenge = summarise(table, NO_BASELINES, settings, {"b": "failed"})["challenge"]
    assert challenge["dice_auc"] == pytest.approx(0.8 * 5 / 2)


def test_cvpr2025_forgets_surface_dice_of_bad_cases_and_late_ones():
    settings = EvaluationSettings(protocol=Protocol.cvpr2025)
    bad = record("a", *[0.1] * 6)
    challenge = summarise(scores_table([bad]), NO_BASELINES, settings)["challenge"]
    assert challenge["dsc_auc"] == pytest.approx(0.4)
    assert challenge["nsd_auc"] == 0
    table = scores_table([record("b", *[0.8] * 6)])
    table["seconds"] = 15.1  # six of them are more than 90 s
    challenge = summarise(table, NO_BASELINES, settings)["challenge"]
    assert challenge["dsc_auc"] == challenge["nsd_final"] == 0


def test_files_are_whole_and_can_be_read_back(tmp_path):
    table = scores_table([record("a", 0.2, 0.6, 0.5)])
    write_table(table, tmp_path / "scores.csv")
    back = pd.read_csv(tmp_path / "scores.csv")
    assert list(back.columns[:4]) == ["case", "repeat", "step", "dice"]
    assert back.dmm.isna().all()
    np.testing.assert_allclose(back.dice, [0.2, 0.6, 0.5])
    write_summary(summary_of(record("a", 0.2, 0.6, 0.5)), tmp_path / "summary.json")
    assert "NaN" not in (tmp_path / "summary.json").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"scores.csv", "summary.json"}


def test_a_record_holds_until_what_it_comes_from_changes(tmp_path):
    image, clicks = tmp_path / "a.nii", tmp_path / "a.json"
    for path in (image, clicks):
        path.write_bytes(b"1")
    case = Case("a", (image,), None)

    def inputs() -> str:
        return digest_of_inputs(case, clicks, 3)

    written = record_case(case, inputs(), [steps([case_scores(0.5)])])
    write_record(written, tmp_path)
    assert read_record(case, inputs(), tmp_path) == written
    assert read_record(Case("b", (image,), None), inputs(), tmp_path) is None
    assert read_record(case, digest_of_inputs(case, clicks, 4), tmp_path) is None
    for path in (clicks, image):
        before = inputs()
        path.write_bytes(b"12")
        assert inputs() != before
        assert read_record(case, inputs(), tmp_path) is None


def test_the_voxels_of_a_detached_header_are_inputs(tmp_path):
    header = tmp_path / "a.mhd"
    write_volume(Volume(np.zeros((4, 4, 4), np.float32), np.eye(4)), header)
    case = Case("a", (header,), None)
    before = digest_of_inputs(case)
    voxels = next(path for path in tmp_path.iterdir() if path != header)
    voxels.write_bytes(voxels.read_bytes() + b"1")
    assert digest_of_inputs(case) != before


def test_a_failure_is_remembered_and_half_a_file_is_not(tmp_path):
    case = Case("a", (tmp_path / "missing.nii",), None)
    write_record(record_failure(case, "inputs", ValueError("odd")), tmp_path)
    known = read_record(case, "inputs", tmp_path)
    assert known is not None
    assert (known.error, known.scores) == ("ValueError: odd", ())
    path = tmp_path / "cases/a.json"
    path.write_text(path.read_text()[:20])
    assert read_record(case, "inputs", tmp_path) is None


def test_iou_is_that_of_each_label():
    both = case_scores({"liver": 1.0, "tumor": 0.7}, present=("liver", "tumor"))
    found = [steps([both, both])]
    summary = summary_of(record_case(Case("a", (), None), "", found), steps=1)
    # (1 + 0.7 / 1.3) / 2 = 0.77, where the mean Dice of 0.85 alone would say 0.74
    iou = scores_table([record_case(Case("a", (), None), "", found)])
    assert _iou(iou).tolist() == pytest.approx([0.5 + 0.35 / 1.3] * 2)
    assert summary["number_of_clicks"]["dice"]["0.85"]["nof"] == 0


def test_cvpr2025_has_no_figure_for_a_case_without_classes():
    records = [record("a", *[0.8] * 6), record("n", *[0.0] * 6, empty=True)]
    challenge = summary_of(*records, steps=5, protocol=Protocol.cvpr2025)["challenge"]
    assert challenge["dsc_auc"] == pytest.approx(3.2)
