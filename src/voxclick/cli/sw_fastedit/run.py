"""Runs what the original's options come to."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml

from voxclick.cli.console import plain_console
from voxclick.cli.main import main as voxclick
from voxclick.cli.reporting import reporting_errors
from voxclick.cli.sw_fastedit.options import build_parser
from voxclick.cli.sw_fastedit.translation import (
    STOPPING,
    WITHOUT_MEANING,
    run_configuration,
    validation_strategy,
)
from voxclick.config import RunConfig, load_config, save_config
from voxclick.datasets import is_dataset, read_dataset
from voxclick.errors import UsageError
from voxclick.files import replace_when_written
from voxclick.model_files import read_model_settings, save_model
from voxclick.model_files.sw_fastedit import import_sw_fastedit
from voxclick.runs import read_run_dataset, split_of_run
from voxclick.training.run_folder import RunFolder

CONFIG = "sw-fastedit.yaml"
"""In the output folder, and of an evaluation beside its scores: what the options came to, as a
configuration of ours."""

RESUMED = "resumed-from"
"""In the output folder: a folder with the weights of --resume_from in our form, and in an
evaluation with the configuration whose split it takes. The run's own stay as they are."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the original's options and run our command; returns the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    return reporting_errors(lambda: _run(options, parser.get_default), options.debug)


def _run(options: Namespace, default: Callable[[str], object]) -> int:
    console = plain_console()
    for name, why in WITHOUT_MEANING.items():
        if getattr(options, name) != default(name):
            console.print(f"note: --{name} has no meaning here: {why}")
    if options.val_crop_size is not None and options.inferer == "SlidingWindowInferer":
        console.print("note: --val_crop_size has no meaning for sliding windows here")
    data = _data_folder(options)
    out = Path(options.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    _limit_gpu_memory(options)
    with _cache(options):
        command = (
            _evaluation(options, data, out) if options.eval_only else _training(options, data, out)
        )
        console.print(f"runs: voxclick {shlex.join(command)}", soft_wrap=True)
        return voxclick([*command, "--debug"] if options.debug else command)


def _training(options: Namespace, data: Path, out: Path) -> list[str]:
    """Arguments of `voxclick train`; leaves its configuration in the output folder."""
    resumed = _resumed_from(options)
    if resumed is not None and _is_checkpoint_of(out, resumed):
        plain_console().print(
            f"note: the run goes on as {RunFolder(out).config} says; other options of it than "
            "those of the device are not looked at"
        )
        return ["train", str(data), "--out", str(out), "--resume", *_device(options)]
    for name in ("save_nifti", "save_pred"):
        if getattr(options, name):
            raise UsageError(f"--{name} writes masks of an evaluation; give --eval_only too")
    more = [] if resumed is None else _what_was_learnt(resumed, options)
    config = _write_configuration(options, data, out / CONFIG, *more)
    command = ["train", str(data), "--out", str(out), "--config", str(out / CONFIG)]
    if resumed is not None:
        command += ["--weights", str(_our_form(resumed, options, data, config).model)]
    return [*command, *_device(options)]


def _what_was_learnt(weights: Path, options: Namespace) -> list[str]:
    """Settings that the weights have learnt to read; clicks not for a network without."""
    if not _is_ours(weights):
        if options.non_interactive:
            return []
        return ["guidance.kind=sw-fastedit", f"guidance.sigma={options.sigma}"]
    settings = read_model_settings(weights).model_dump(mode="json")
    names = ["preprocessing"] if options.non_interactive else ["preprocessing", "guidance"]
    plain_console().print(f"note: {' and '.join(names)} are those of {weights}")
    return [f"{name}={json.dumps(settings[name])}" for name in names]  # JSON is YAML


def _write_configuration(options: Namespace, data: Path, path: Path, *more: str) -> RunConfig:
    """What the options come to; one epoch shows every training case once, as the original's."""
    dataset = read_dataset(data)
    values = run_configuration(options, dataset.channels)
    with replace_when_written(path) as temporary:
        temporary.write_text(yaml.safe_dump(values), encoding="utf-8")
    overrides = [*more, *options.set]
    if not any(override.startswith("training.steps_per_epoch=") for override in overrides):
        training, _ = split_of_run(dataset, load_config(path, overrides))
        overrides.insert(0, f"training.steps_per_epoch={len(training)}")
    config = load_config(path, overrides)
    save_config(config, path)
    return config


def _evaluation(options: Namespace, data: Path, out: Path) -> list[str]:
    """Arguments of `voxclick evaluate`; leaves the model and the split in the output folder."""
    resumed = _resumed_from(options)
    if resumed is None:
        raise UsageError("--eval_only needs the weights: --resume_from FILE")
    scores = out / "scores"
    scores.mkdir(exist_ok=True)
    # --limit is of the cases that are evaluated, not of those that are split
    config = _write_configuration(options, data, scores / CONFIG, "data.limit=null")
    run = _evaluated_run(resumed, options, data, config)
    part = "test" if options.use_test_data_for_validation else "validation"
    if options.train_on_all_samples and part == "validation":
        part = "train"
    return [
        *("evaluate", str(data), "--model", str(run.model), "--out", str(scores)),
        *("--split", part, "--seed", str(options.seed), "--no-baselines"),
        *_protocol(options),
        *_inference(resumed, config),
        *(("--limit", str(options.limit)) if options.limit else ()),
        *_masks(options),
        *_device(options),
    ]


def _evaluated_run(resumed: Path, options: Namespace, data: Path, config: RunConfig) -> RunFolder:
    """The folder of the model, with the configuration that says what was held back."""
    run = RunFolder(resumed.parent)
    if _is_ours(resumed) and resumed.name == run.model.name and run.config.is_file():
        plain_console().print(f"note: the split is that of the run, as {run.config} says")
        return run
    run = _our_form(resumed, options, data, config)
    save_config(config, run.config)
    return run


def _inference(resumed: Path, config: RunConfig) -> list[str]:
    """How windows run, as the options say; of a model of ours only what they say otherwise."""
    settings = config.inference.model_dump(mode="json")
    if _is_ours(resumed):
        plain_console().print(
            f"note: {resumed} itself says its network, grid, scaling, clicks and, where no option "
            "does, windows; other options of these are not looked at"
        )
        unsaid = run_configuration(build_parser().parse_args(["-o", ""]), ())
        usual = RunConfig.model_validate(unsaid).inference.model_dump(mode="json")
        settings = {key: value for key, value in settings.items() if value != usual.get(key)}
    changes = (f"inference.{key}={json.dumps(value)}" for key, value in settings.items())
    return [word for change in changes for word in ("--set", change)]  # JSON is YAML


def _protocol(options: Namespace) -> list[str]:
    steps = 0 if options.non_interactive else options.max_val_interactions
    if options.deepgrow_probability_val != 1:
        probability = str(options.deepgrow_probability_val)
        return [
            *("--protocol", "deepgrow", "--steps", str(steps)),
            *("--click-probability", probability),
            *("--stopping", "deepgrow-probability", "--stop-probability", probability),
        ]
    stopping = STOPPING[options.val_click_generation_stopping_criterion]
    return [
        *("--protocol", validation_strategy(options), "--steps", str(steps)),
        *("--stopping", stopping),
    ]


def _masks(options: Namespace) -> list[str]:
    if options.save_nifti:
        return ["--save-masks", "every"]
    return ["--save-masks", "last"] if options.save_pred else []


def _data_folder(options: Namespace) -> Path:
    """--input_dir; or, as the original's notes have command lines without it, --data_dir."""
    if options.input_dir is not None:
        if options.data_dir is not None:
            plain_console().print(
                "note: --data_dir has no meaning here: masks lie in the --output_dir"
            )
        return Path(options.input_dir)
    if options.data_dir is not None and is_dataset(Path(options.data_dir)):
        return Path(options.data_dir)
    raise UsageError("say where the images are: --input_dir FOLDER")


def _resumed_from(options: Namespace) -> Path | None:
    if options.resume_from == "None":
        return None
    path = Path(options.resume_from)
    if not path.is_file():
        raise UsageError(f"--resume_from {path}: there is no such file")
    folder = RunFolder(path.parent)
    goes_on = _is_checkpoint_of(Path(options.output_dir), path) and not options.eval_only
    if path.name == folder.checkpoint.name and not goes_on:
        raise UsageError(
            f"--resume_from {path}: a checkpoint of voxclick is for going on with the training in "
            f"its own --output_dir; take {folder.model.name} beside it"
        )
    return path


def _is_checkpoint_of(out: Path, path: Path) -> bool:
    return path.resolve() == RunFolder(out).checkpoint.resolve()


def _is_ours(weights: Path) -> bool:
    return weights.suffix == ".safetensors"


def _our_form(weights: Path, options: Namespace, data: Path, config: RunConfig) -> RunFolder:
    """A folder with the weights that are resumed from as a model file of ours."""
    folder = RunFolder(Path(options.output_dir) / RESUMED)
    folder.path.mkdir(exist_ok=True)
    if _is_ours(weights):
        if weights.resolve() != folder.model.resolve():
            with replace_when_written(folder.model) as temporary:
                shutil.copyfile(weights, temporary)
        return folder
    if options.no_disks:
        raise UsageError(
            f"--no_disks: {weights} would have to be read with SW-FastEdit's sums of Gaussians, "
            "which are not drawn here; expected weights that were trained with disks"
        )
    run = config.model_settings(read_run_dataset(data, config))
    settings, network = import_sw_fastedit(
        weights, labels=run.labels[1:], channels=run.channels, sigma=options.sigma
    )
    # which is not in the file, so the options say it
    settings = settings.model_copy(update={"preprocessing": run.preprocessing})
    save_model(folder.model, settings, network)
    plain_console().print(
        f"note: {weights} holds SW-FastEdit's weights; the optimizer and the count of epochs in it "
        "are not taken over"
    )
    return folder


def _device(options: Namespace) -> list[str]:
    if options.device is not None:
        return ["--device", options.device]
    if options.gpu is not None and torch.cuda.is_available():
        return ["--device", f"cuda:{options.gpu}"]
    return []


def _limit_gpu_memory(options: Namespace) -> None:
    share = options.limit_gpu_memory_to
    if share == -1:
        return
    if not 0 < share <= 1:
        raise UsageError(f"--limit_gpu_memory_to: expected a share from 0 to 1, got {share}")
    if not torch.cuda.is_available():
        plain_console().print("note: --limit_gpu_memory_to has no meaning without a GPU")
        return
    torch.cuda.set_per_process_memory_fraction(share, options.gpu or 0)


@contextmanager
def _cache(options: Namespace) -> Iterator[None]:
    """With --throw_away_cache, a folder of its own below --cache_dir that is gone afterwards."""
    if not options.throw_away_cache:
        yield
        return
    if options.cache_dir is not None:
        Path(options.cache_dir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="voxclick-", dir=options.cache_dir) as folder:
        options.cache_dir = folder
        yield
