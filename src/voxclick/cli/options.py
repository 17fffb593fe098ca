"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer


class BackendName(str, Enum):
    """`voxclick.model_files.Backend`, for the command line."""

    torch = "torch"
    openvino = "openvino"


DeviceOption = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda or cuda:N; auto takes a GPU if there is one"),
]
BackendOption = Annotated[
    BackendName,
    typer.Option(
        "--backend",
        help="what computes the network; openvino is faster on many CPUs, an extra to install",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="the same seed gives the same result")
]
InferenceOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="another way through the network than the model's own, e.g. inference.overlap=0.5; "
        "may be repeated",
    ),
]
