"""Files that are whole or not there."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from voxclick.files import replace_when_written, write_tensors


def test_a_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "new/scores.csv"
    with replace_when_written(path) as temporary:
        temporary.write_text("older")

    def fail_in_the_middle() -> None:
        with replace_when_written(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_the_middle()
    assert path.read_text() == "older"
    assert list(path.parent.iterdir()) == [path]


def test_threads_do_not_share_a_temporary_file(tmp_path):
    def write(number: int) -> None:
        with replace_when_written(tmp_path / "log.json") as temporary:
            temporary.write_text(f"{number}" * 10000)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    text = (tmp_path / "log.json").read_text()
    assert text == text[0] * 10000
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_tensors_are_readable_by_whom_other_files_are(tmp_path):
    (tmp_path / "plain").touch()
    path = tmp_path / "cache/case.safetensors"
    tensors = {"image": torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2)}
    write_tensors(path, tensors, {"spacing": "1"})
    modes = [stat.S_IMODE(file.stat().st_mode) for file in (path, tmp_path / "plain")]
    assert modes[0] == modes[1]
    assert torch.equal(load_file(path)["image"], tensors["image"])
