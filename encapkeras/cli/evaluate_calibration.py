"""`encapkeras evaluate RUN --calibrate`: fits a temperature, keeps it in the network's file, and draws what it does."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from encapkeras.cli.arguments.output_file import check_free_in
from encapkeras.cli.arguments.trained_run import TrainedRun
from encapkeras.errors import ArgumentError, RunFolderError, printable


def run(arguments: argparse.Namespace) -> None:
    """Fit on validation, measure on test, write the picture, and only then the network."""
    from encapkeras.analysis.calibrate import calibrate, plot_reliability
    from encapkeras.files import replacing, write_json, writing
    from encapkeras.training.callbacks.checkpoints import replace_checkpoint
    from encapkeras.training.measure import loaded, measure_scores

    trained = TrainedRun.open(arguments.runs[0], arguments.data_root, arguments.overrides)
    if not trained.folder.results.is_file():
        raise RunFolderError(
            f"run {trained.folder.path} is unfinished, and would not resume with a changed checkpoint: finish it first"
        )
    output = Path(arguments.output) if arguments.output else trained.folder.analysis_in("calibration")
    table, picture = output / "calibration.json", output / "reliability.png"
    check_free_in(output, (table, picture), arguments.overwrite)
    splits = trained.splits()
    if splits.info.task == "segments":
        raise ArgumentError("--calibrate is for images with classes or labels; in these, each pixel has a class")
    if splits.validation is None:
        raise ArgumentError(
            f"--calibrate fits on validation images, and run {trained.folder.path} has none (data.validation is 0). "
            "Train with data.validation=0.1"
        )
    model = loaded(trained.checkpoint, splits.info)
    measured = [measure_scores(model, trained.chosen(splits, split)) for split in ("validation", "test")]
    calibration = calibrate(measured[0].probabilities, *((each.scores, each.labels) for each in measured))
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    with replacing(picture) as file:
        plot_reliability(calibration).savefig(file, format="png")
    content = calibration.plain()
    write_json(table, content)
    model.temperature = calibration.temperature
    replace_checkpoint(trained.checkpoint, model)
    _print(content, trained.checkpoint, output, arguments.json)
    if content["after"]["cross_entropy"] > content["before"]["cross_entropy"]:
        print(
            "warning: the probabilities of the test images are worse with this temperature. More validation images fit "
            "a better one (data.validation); model.temperature = None takes it away",
            file=sys.stderr,
        )


def _print(content: dict[str, Any], checkpoint: Path, output: Path, as_json: bool) -> None:
    if as_json:
        print(json.dumps(content, indent=2))
    else:
        before, after = content["before"], content["after"]
        print(f"temperature {content['temperature']:.4f}, fitted on {content['validation_images']:,} validation images")
        for name, words in (("calibration_error", "calibration error"), ("cross_entropy", "cross-entropy")):
            print(f"test {words} {before[name]:.4f} before, {after[name]:.4f} after")
    written = f"kept in {printable(str(checkpoint))}; picture in {printable(str(output))}"
    print(written, file=sys.stderr if as_json else sys.stdout)
