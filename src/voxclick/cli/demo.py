"""`voxclick demo`: the whole thing on made-up data, without data, GPU or network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from voxclick.cli.console import plain_console
from voxclick.cli.options import DeviceOption, SeedOption
from voxclick.cli.progress import case_progress
from voxclick.clicks import write_clicks
from voxclick.evaluation.annotators import LabelledScan
from voxclick.evaluation.plots import plot_case
from voxclick.evaluation.runner import CaseEvaluation, Step
from voxclick.evaluation.settings import EvaluationSettings
from voxclick.io import read_volume, write_label_map, write_volume
from voxclick.model_files import load_model
from voxclick.phantoms import make_phantom
from voxclick.session import InteractiveSession
from voxclick.weights import PHANTOM_PET

NAME = "phantom"
DEMO_SEED = 29


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="folder for the image, the masks and the picture")
    ] = Path("voxclick-demo"),
    steps: Annotated[int, typer.Option("--steps", min=1, help="simulated clicks")] = 10,
    seed: SeedOption = DEMO_SEED,
    device: DeviceOption = "auto",
) -> None:
    """Click through the lesions of one phantom of whole-body FDG-PET."""
    console = plain_console()
    out.mkdir(parents=True, exist_ok=True)
    phantom = make_phantom(seed)
    # as others find it: the file rounds the affine, and so do masks that are made of it
    write_volume(phantom.image, out / "image.nii.gz")
    image = read_volume(out / "image.nii.gz")
    session = InteractiveSession(load_model(PHANTOM_PET, device), image)
    settings = EvaluationSettings(steps=steps, seed=seed)
    scan = LabelledScan(NAME, (image,), phantom.label)
    with case_progress("clicking", steps + 1) as on_step:
        clicked = CaseEvaluation(session, scan, settings).click_through(on_step=on_step)

    write_label_map(phantom.label, out / "truth.nii.gz")
    write_label_map(clicked.last, out / "mask.nii.gz")
    write_clicks(clicked.clicks, out / "clicks.json")
    predictions = {"no clicks": clicked.first, f"{steps} clicks": clicked.last}
    plot_case(image, phantom.label, predictions, clicked.clicks, out / "demo.png")
    console.print(_dice_table(clicked.steps))
    console.print(
        f"{len(phantom.lesions)} lesions; the scan, the true and the predicted mask, the clicks "
        f"and a picture are in {out}/\nThe model was trained on phantoms alone: for research and "
        "for trying things out, not a medical device."
    )


def _dice_table(steps: tuple[Step, ...]) -> Table:
    table = Table("clicks", "Dice", "", "seconds")
    for step in steps:
        dice = step.scores.together.dice
        bar = "█" * round(dice * 30)
        table.add_row(str(step.clicks), f"{dice:.3f}", bar, f"{step.seconds:.2f}")
    return table
