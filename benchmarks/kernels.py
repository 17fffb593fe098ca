"""Where a window's time goes on a GPU: the kernels that take longest, by PyTorch's profiler.

In both layouts of memory, as a session tries them.

python benchmarks/kernels.py --network dynunet --window 128
"""

from __future__ import annotations

import argparse

import torch
from network_variants import channels_last_input, eager, random_work
from torch.profiler import ProfilerActivity, profile

from voxclick.sliding_window.precision import resolve_precision

_CALLS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--network", default="dynunet")
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    device = torch.device(options.device)
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    for precision in ("auto", "float32"):
        dtype = resolve_precision(precision, device)
        work = random_work(options.network, options.window, options.batch, dtype, device)
        for build in (eager, channels_last_input):
            way = build(work)
            way()
            with profile(activities=activities) as profiler:
                for _ in range(_CALLS):
                    way()
            order = "self_cuda_time_total" if on_cuda else "self_cpu_time_total"
            print(
                f"{build.__name__}, {options.network}, {options.window}³, {dtype}, {_CALLS} calls"
            )
            table = profiler.key_averages().table(
                sort_by=order, row_limit=20, max_name_column_width=90
            )
            print(table)


if __name__ == "__main__":
    main()
