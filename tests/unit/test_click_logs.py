"""Click logs: the points form with times."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxclick.clicks import Click, read_clicks, write_clicks
from voxclick.clicks.logs import ClickLog, TimedClick, read_click_log, write_click_log
from voxclick.errors import ClickError

FILE = {
    "version": {"major": 1, "minor": 0},
    "type": "Multiple points",
    "case": "patient-7",
    "annotator": "anna",
    "started": "2025-03-01T09:30:00Z",
    "points": [
        {"point": [9, 9, 9], "name": "background", "seconds": 30},
        {"point": [1, 2, 3], "name": "tumor", "seconds": 4.5},
        {"point": [5, 5, 5], "name": "tumor", "seconds": 12.0, "removed": 13.5},
    ],
}


def written(folder, **changes):
    path = folder / "scan_ben.json"
    content = {key: value for key, value in (FILE | changes).items() if value is not None}
    path.write_text(json.dumps(content))
    return path


def with_point(**changes):
    return {"points": [{"point": [1, 2, 3], "name": "tumor", "seconds": 1.0} | changes]}


def test_a_log_is_read_in_order_of_time(tmp_path):
    log = read_click_log(written(tmp_path))
    assert (log.case, log.annotator) == ("patient-7", "anna")
    assert log.started == datetime(2025, 3, 1, 9, 30, tzinfo=timezone.utc)
    assert log.clicks == (
        TimedClick(Click((1, 2, 3), "tumor"), 4.5),
        TimedClick(Click((5, 5, 5), "tumor"), 12.0, removed=13.5),
        TimedClick(Click((9, 9, 9), "background"), 30.0),
    )
    assert [timed.seconds for timed in log.standing] == [4.5, 30.0]


def test_what_a_log_may_leave_out(tmp_path):
    log = read_click_log(written(tmp_path, case=None, annotator=None, started=None, points=[]))
    assert log == ClickLog("scan_ben", ())
    assert log.standing == ()


def test_clicks_at_one_time_keep_their_order():
    clicks = tuple(TimedClick(Click((n, 0, 0), "tumor"), 1.0) for n in (3, 1, 2))
    assert ClickLog("a", clicks).clicks == clicks


seconds = st.floats(0, 1e5)
timed_clicks = st.builds(
    lambda index, label, given, later: TimedClick(
        Click(index, label), given, None if later is None else given + later
    ),
    st.tuples(*[st.integers(0, 5000)] * 3),
    st.text(max_size=8),
    seconds,
    st.none() | seconds,
)


@given(
    log=st.builds(
        ClickLog,
        st.text(min_size=1),
        st.lists(timed_clicks).map(tuple),
        st.none() | st.text(min_size=1),
        st.none()
        | st.datetimes(
            datetime(1990, 1, 1),
            datetime(2100, 1, 1),
            timezones=st.integers(-12, 14).map(lambda hours: timezone(timedelta(hours=hours))),
        ),
    )
)
def test_any_log_comes_back_and_is_a_click_file_too(tmp_path_factory, log):
    path = tmp_path_factory.mktemp("logs") / "new" / "log.json"
    write_click_log(log, path)
    assert read_click_log(path) == log
    assert read_clicks(path) == [timed.click for timed in log.standing]
    assert [file.name for file in path.parent.iterdir()] == ["log.json"]


def test_a_log_is_written_as_documented(tmp_path):
    path = tmp_path / "log.json"
    write_click_log(read_click_log(written(tmp_path)), path)
    content = json.loads(path.read_text())
    assert content["started"] == "2025-03-01T09:30:00+00:00"
    in_order = [FILE["points"][n] for n in (1, 2, 0)]
    assert content == FILE | {"started": content["started"], "points": in_order}
    write_click_log(ClickLog("a", ()), path)
    assert set(json.loads(path.read_text())) == {"version", "type", "case", "points"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": [{"point": [1, 2, 3], "name": "tumor"}]}, "has no time"),
        (with_point(seconds=-1), r"'seconds' -1.0; expected a finite number of seconds"),
        (with_point(seconds=float("nan")), "'seconds' nan"),
        (with_point(seconds=10**400), "'seconds' inf"),
        (with_point(removed=float("inf")), "'removed' inf"),
        (with_point(removed=0.5), r"taken back after 0.5 s, before it was given after 1.0 s"),
        (with_point(seconds="1"), "expected a number of seconds for 'seconds', got '1'"),
        (with_point(seconds=True), "expected a number of seconds for 'seconds', got True"),
        (with_point(removed=[2]), "expected a number of seconds for 'removed'"),
        (with_point(point=[1, 2]), "three voxel coordinates"),
        ({"type": "2D bounding box"}, "expected the type 'Multiple points'"),
        ({"case": 7}, "expected a name for 'case', got 7"),
        ({"annotator": ""}, "expected a name for 'annotator', got ''"),
        ({"started": "yesterday"}, "expected a time in UTC for 'started'"),
        ({"started": "2025-03-01T09:30:00"}, "has no time zone; expected UTC"),
    ],
)
def test_damaged_logs_are_refused_in_a_sentence(tmp_path, changes, message):
    path = written(tmp_path, **changes)
    with pytest.raises(ClickError, match=message) as caught:
        read_click_log(path)
    assert str(caught.value).count(str(path)) == 1
    assert "\n" not in str(caught.value)


def test_a_log_needs_the_form_that_has_times(tmp_path):
    write_clicks([Click((1, 2, 3), "tumor")], tmp_path / "a.json", "labels")
    with pytest.raises(ClickError, match="labels form, which knows no times"):
        read_click_log(tmp_path / "a.json")
    with pytest.raises(ClickError, match="no such click file"):
        read_click_log(tmp_path / "b.json")


# A log that is kept while somebody clicks


ONE, TWO, THREE = (Click((n, 0, 0), "tumor") for n in (1, 2, 3))


def test_a_log_follows_the_clicks():
    log = ClickLog("scan", ()).followed_by([ONE], 2.0).followed_by([ONE, TWO], 5.0)
    log = log.followed_by([TWO, THREE], 9.0)
    assert log.clicks == (TimedClick(ONE, 2.0, 9.0), TimedClick(TWO, 5.0), TimedClick(THREE, 9.0))
    # what was taken back and comes again is another click
    again = log.followed_by([ONE], 11.0)
    assert [timed.click for timed in again.clicks] == [ONE, TWO, THREE, ONE]
    assert [timed.click for timed in again.standing] == [ONE]
    assert again.followed_by([ONE], 12.0) == again


@given(
    st.lists(st.lists(st.sampled_from([ONE, TWO, THREE]), unique=True), max_size=8),
)
def test_what_stands_is_what_was_told_last(told):
    log = ClickLog("scan", ())
    for seconds, clicks in enumerate(told):
        log = log.followed_by(clicks, float(seconds))
        assert {timed.click for timed in log.standing} == set(clicks)
    assert len(log.clicks) == sum(
        len(set(now) - set(before)) for before, now in zip([[], *told], told, strict=False)
    )


def test_a_click_is_not_taken_back_before_it_was_given():
    log = ClickLog("scan", ()).followed_by([ONE], 5.0)
    with pytest.raises(ClickError, match="before it was given"):
        log.followed_by([], 4.0)
