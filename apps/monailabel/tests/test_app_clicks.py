"""The clicks in requests to the MONAI Label app, and the logs that it keeps of them."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from lib.clicks import ClickRecorder, clicks_of_request, client_of
from voxclick import Click
from voxclick.clicks import read_click_log, read_clicks
from voxclick.errors import ClickError, UsageError

ONE = ("background", "tumor")
TWO = ("background", "liver", "tumor")


def asked(request, labels=ONE, others=()):
    base = {"image": "scan", "device": "cpu", "client_id": "anna"}
    return clicks_of_request(base | request, labels, others)


# Requests


def test_points_by_label():
    request = {
        "tumor": [[1, 2, 3], [4.0, 5.2, 5.9]],
        "background": [[7, 8, 9]],
        "label": "tumor",
        "kidney": [],  # of another model
        "roi": [1, 2, 3],
    }
    found = asked(request)
    assert set(found.clicks) == {
        Click((1, 2, 3), "tumor"),
        Click((4, 5, 6), "tumor"),
        Click((7, 8, 9), "background"),
    }
    assert found.single_label is None
    assert asked({}).clicks == asked({"tumor": None}).clicks == ()


def test_clicks_for_labels_of_other_models_are_left_out():
    request = {"tumor": [[1, 2, 3]], "liver": [[4, 5, 6]], "kidney": []}
    found = asked(request, others=("liver", "kidney"))
    assert found.clicks == (Click((1, 2, 3), "tumor"),)
    assert found.ignored == ("liver",)
    with pytest.raises(ClickError, match="clicks for 'spleen', which the model does not know"):
        asked(request | {"spleen": [[1, 1, 1]]}, others=("liver", "kidney"))


def test_foreground_and_background():
    request = {"foreground": [[1, 2, 3]], "background": [[7, 8, 9]], "label": "Segment_1"}
    found = asked(request)
    assert found.single_label == "tumor"
    assert set(found.clicks) == {Click((1, 2, 3), "tumor"), Click((7, 8, 9), "background")}
    assert asked({"foreground": []}).single_label == "tumor"
    assert asked(request | {"label": "liver"}, TWO).clicks[0] == Click((1, 2, 3), "liver")
    with pytest.raises(ClickError, match="'Segment_1', but the model knows liver, tumor"):
        asked(request, TWO)


def test_a_label_may_be_called_foreground():
    found = asked({"foreground": [[1, 2, 3]], "background": []}, ("background", "foreground"))
    assert found.clicks == (Click((1, 2, 3), "foreground"),)
    assert found.single_label is None


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"liver": [[1, 2, 3]]}, "clicks for 'liver', which the model does not know"),
        ({"tumor": [[1, 2]]}, r"expected a voxel \[i, j, k\] for 'tumor', got \[1, 2\]"),
        ({"tumor": [1, 2, 3]}, r"expected a voxel \[i, j, k\] for 'tumor', got 1"),
        ({"tumor": "here"}, r"expected a list of voxels \[i, j, k\] for 'tumor', got 'here'"),
        ({"tumor": [[1, 2, True]]}, "expected a voxel"),
        ({"tumor": [[1, 2, float("nan")]]}, "expected a voxel"),
        ({"tumor": [[1, 2, "3"]]}, "expected a voxel"),
    ],
)
def test_what_is_no_click_is_refused(request_, message):
    with pytest.raises(ClickError, match=message):
        asked(request_)


# Logs


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


A, B, C = (Click((n, 0, 0), "tumor") for n in range(3))


def test_a_log_is_kept_for_each_image_and_client(tmp_path):
    clock = Clock()
    recorder = ClickRecorder(tmp_path / "clicks", clock)
    recorder.open("scan", "anna")
    clock.now += 4
    recorder.record("scan", "anna", [A])
    recorder.record("scan", None, [B])
    clock.now += 2.5
    recorder.record("scan", "anna", [A, B])
    recorder.record("scan", "anna", [B])
    assert sorted(path.name for path in (tmp_path / "clicks").iterdir()) == [
        "scan.json",
        "scan_anna.json",
    ]
    log = read_click_log(tmp_path / "clicks/scan_anna.json")
    assert (log.case, log.annotator) == ("scan", "anna")
    assert log.started is not None
    assert abs((datetime.now(timezone.utc) - log.started).total_seconds()) < 60
    assert [(t.click, t.seconds, t.removed) for t in log.clicks] == [(A, 4, 6.5), (B, 6.5, None)]
    other = read_click_log(tmp_path / "clicks/scan.json")
    assert (other.annotator, [t.seconds for t in other.clicks]) == (None, [0.0])


def test_an_image_without_clicks_has_a_log_too(tmp_path):
    ClickRecorder(tmp_path).record("scan", "anna", [])
    assert read_click_log(tmp_path / "scan_anna.json").clicks == ()


def test_a_log_goes_on_and_its_clock_stands_still_in_between(tmp_path):
    clock = Clock()
    recorder = ClickRecorder(tmp_path, clock)
    recorder.record("scan", "anna", [A])
    clock.now += 3
    recorder.record("scan", "anna", [A, B])
    for again in (ClickRecorder(tmp_path, clock), recorder):  # another server, or the same
        clock.now += 5000
        again.open("scan", "anna")
    clock.now += 2
    recorder.record("scan", "anna", [A, B, C])
    log = read_click_log(tmp_path / "scan_anna.json")
    assert [(t.click, t.seconds) for t in log.clicks] == [(A, 0), (B, 3), (C, 5)]


def test_time_with_another_image_does_not_count(tmp_path):
    clock = Clock()
    recorder = ClickRecorder(tmp_path, clock)
    recorder.open("scan", "anna")
    recorder.open("other", "anna")  # whatever the first one was for
    for seconds, image, clicks in ((5, "other", [A]), (7, "scan", [A]), (50, "other", [A, B])):
        clock.now += seconds
        recorder.record(image, "anna", clicks)
        recorder.record("scan", "ben", [])  # another client is another matter
    clock.now += 3
    recorder.record("other", "anna", [A, B, C])
    scan, other = (read_click_log(tmp_path / f"{name}_anna.json") for name in ("scan", "other"))
    assert [timed.seconds for timed in scan.clicks] == [0]
    assert [timed.seconds for timed in other.clicks] == [5, 5, 8]


def test_nothing_is_written_where_nothing_has_changed(tmp_path):
    clock = Clock()
    recorder = ClickRecorder(tmp_path, clock)
    recorder.record("scan", "anna", [A])
    path = tmp_path / "scan_anna.json"
    path.write_text("looked at")
    clock.now += 1
    recorder.record("scan", "anna", [A])
    assert path.read_text() == "looked at"
    recorder.record("scan", "anna", [])
    assert read_clicks(path) == []


def test_a_log_that_cannot_be_read_is_kept(tmp_path):
    path = tmp_path / "scan_anna.json"
    path.write_text('{"type": "Multiple po')
    ClickRecorder(tmp_path).record("scan", "anna", [A])
    assert read_clicks(path) == [A]
    (kept,) = tmp_path.glob("*.unreadable")
    assert kept.read_text() == '{"type": "Multiple po'


NAMES = [
    ("scan", "../../etc/anna"),
    ("scan", "..-..-etc-anna"),
    ("../scan", "anna"),
    ("scan", "anna/."),
    ("scan", "a b"),
    ("scan", "ä:*"),
    ("scan", "a" * 300),
    ("scan", "a" * 301),
    ("scan_1", "anna"),
    ("scan", "1_anna"),
    ("scan_1_anna", None),
]


def test_no_two_share_a_log_whatever_they_are_called(tmp_path):
    folder, clock = tmp_path / "deep/clicks", Clock()
    for recorder in (ClickRecorder(folder, clock), ClickRecorder(folder, clock)):
        for number, (image, client) in enumerate(NAMES):
            recorder.record(image, client, [Click((number, 0, 0), "tumor")])
    assert {path.parent for path in tmp_path.rglob("*.json")} == {folder}
    logs = [read_click_log(path) for path in folder.iterdir()]
    found = {(log.case, log.annotator): log.clicks[0].click.index[0] for log in logs}
    assert found == {names: number for number, names in enumerate(NAMES)}
    assert len(logs) == len(NAMES)
    assert (folder / "scan_1_anna.json").exists()


def test_clients_are_names():
    assert client_of({}) is client_of({"client_id": None}) is client_of({"client_id": ""}) is None
    assert client_of({"client_id": "anna"}) == "anna"
    for wrong in (5, ["anna"], {"name": "anna"}):
        with pytest.raises(UsageError, match="expected a name"):
            client_of({"client_id": wrong})
