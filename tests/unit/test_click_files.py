"""Click files of both forms."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxclick.clicks import Click, read_clicks, write_clicks
from voxclick.errors import ClickError

CLICKS = [
    Click((109, 103, 353), "tumor"),
    Click((84, 84, 264), "background"),
    Click((0, 1, 2), "tumor"),
]
LABELS_FORM = {"tumor": [[109, 103, 353], [0, 1, 2]], "background": [[84, 84, 264]]}
POINTS_FORM = {
    "version": {"major": 1, "minor": 0},
    "type": "Multiple points",
    "points": [
        {"point": [109, 103, 353], "name": "tumor"},
        {"point": [84, 84, 264], "name": "background"},
        {"point": [0, 1, 2], "name": "tumor"},
    ],
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clicks.json"


def test_the_labels_form_is_exactly_that_of_the_protocols(path):
    write_clicks(CLICKS, path, "labels")
    assert json.loads(path.read_text()) == LABELS_FORM
    assert read_clicks(path) == [CLICKS[0], CLICKS[2], CLICKS[1]]


def test_the_points_form_is_exactly_grand_challenges(path):
    write_clicks(CLICKS, path, "points")
    assert json.loads(path.read_text()) == POINTS_FORM
    assert read_clicks(path) == CLICKS


@given(
    clicks=st.lists(
        st.builds(
            Click,
            st.tuples(*[st.integers(0, 5000)] * 3),
            st.text(max_size=8) | st.sampled_from(["points", "type", "version"]),
        )
    ),
    form=st.sampled_from(["labels", "points"]),
)
def test_any_clicks_come_back(tmp_path_factory, clicks, form):
    path = tmp_path_factory.mktemp("clicks") / "clicks.json"
    write_clicks(clicks, path, form)
    found = read_clicks(path)
    if form == "points":
        assert found == clicks
    for label in {click.label for click in clicks}:
        assert [c for c in found if c.label == label] == [c for c in clicks if c.label == label]
    assert len(found) == len(clicks)


@pytest.mark.parametrize("content", [{}, {"tumor": [], "background": []}])
def test_no_clicks_are_fine(path, content):
    path.write_text(json.dumps(content))
    assert read_clicks(path) == []


def test_a_points_file_may_say_more_than_it_must(path):
    content = {**POINTS_FORM, "name": "lesions"}
    content["points"] = [{"point": [1, 2, 3], "name": "tumor", "probability": 0.5}]
    path.write_text(json.dumps(content))
    assert read_clicks(path) == [Click((1, 2, 3), "tumor")]


def test_fractions_go_to_the_nearest_voxel(path):
    path.write_text('{"tumor": [[0.6, 1.4, 2e1], [-0.3, 0.0, 7.51]]}')
    assert read_clicks(path) == [Click((1, 1, 20), "tumor"), Click((0, 0, 8), "tumor")]
    assert all(type(n) is int for click in read_clicks(path) for n in click.index)


def test_a_byte_order_mark_is_no_damage(path):
    path.write_bytes(b'\xef\xbb\xbf{"tumor": [[1, 2, 3]]}')
    assert read_clicks(path) == [Click((1, 2, 3), "tumor")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read as JSON"),
        ('{"tumor": [[1, 2, 3]', "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[[1, 2, 3]]", "expected a JSON object"),
        ('"tumor"', "expected a JSON object"),
        ('{"tumor": [1, 2, 3]}', "three voxel coordinates, got 1"),
        ('{"tumor": [[1, 2]]}', r"three voxel coordinates, got \[1, 2\]"),
        ('{"tumor": [[1, 2, 3, 4]]}', "three voxel coordinates"),
        ('{"tumor": [["1", 2, 3]]}', "three voxel coordinates"),
        ('{"tumor": [[true, 2, 3]]}', "three voxel coordinates"),
        ('{"tumor": [[null, 2, 3]]}', "three voxel coordinates"),
        ('{"tumor": [[NaN, 2, 3]]}', "finite voxel coordinates"),
        ('{"tumor": [[1e999, 2, 3]]}', "finite voxel coordinates"),
        ('{"tumor": [[-1, 2, 3]]}', r"\[-1, 2, 3\] has a negative coordinate"),
        ('{"tumor": [[1, 2, -0.6]]}', "negative coordinate"),
        ('{"tumor": {"1": 2}}', "a list of voxels for the label 'tumor'"),
        ('{"type": "Multiple points"}', "with a list 'points'"),
        ('{"type": "Multiple points", "points": 3}', "with a list 'points'"),
        ('{"type": "2D bounding box", "points": []}', "got the type '2D bounding box'"),
        ('{"type": "Multiple points", "points": [[1, 2, 3]]}', "points like"),
        ('{"type": "Multiple points", "points": [{"point": [1, 2, 3]}]}', "points like"),
        ('{"type": "Multiple points", "points": [{"name": "tumor"}]}', "three voxel coordinates"),
    ],
)
def test_damaged_files_are_refused_in_a_sentence(path, content, message):
    path.write_text(content)
    with pytest.raises(ClickError, match=message) as caught:
        read_clicks(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_files_and_foreign_encodings_are_refused(path):
    with pytest.raises(ClickError, match="no such click file"):
        read_clicks(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClickError, match="cannot be read as JSON"):
        read_clicks(path)


def test_writing_replaces_the_file_and_leaves_nothing_else(path):
    path = path.parent / "new" / path.name
    write_clicks(CLICKS, path)
    write_clicks(CLICKS[:1], path)
    assert read_clicks(path) == CLICKS[:1]
    assert [file.name for file in path.parent.iterdir()] == ["clicks.json"]
