"""`encapkeras analyse RUN --perturb`: draws what each dimension of the class capsules means to the decoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from encapkeras.cli.arguments.output_file import check_free
from encapkeras.cli.arguments.trained_run import TrainedRun
from encapkeras.errors import ArgumentError, printable


def run(arguments: argparse.Namespace) -> None:
    """Draw a picture for each class, with the best weights."""
    from encapkeras.analysis import Decoder, decoders, one_of_each_class, plot_perturbed
    from encapkeras.files import replacing, writing
    from encapkeras.training.memory.out_of_memory import explain_out_of_memory
    from encapkeras.training.run.run_folder import folder_name

    if arguments.images is not None or arguments.checkpoint:
        raise ArgumentError(
            "--perturb uses one image of each class and the best weights; --images and --checkpoint "
            "belong to the analysis of the routing"
        )
    with explain_out_of_memory():
        trained = TrainedRun.open(arguments.run_dir, arguments.data_root, arguments.overrides)
        splits = trained.splits()
        classifier = trained.classifier(splits)
        names = decoders(classifier.model)
        if not names:
            raise ArgumentError(
                f"network '{classifier.model.name}' has no decoder; add a 'reconstruction' loss, as in the "
                "bundled spec capsnet_sabour"
            )
        output = Path(arguments.output) if arguments.output else trained.folder.analysis_in("perturbed")
        images = one_of_each_class(classifier, trained.chosen(splits, arguments.split))
        digits = len(str(max(images)))
        files = {
            (name, label): output / f"{name}_{label:0{digits}}_{folder_name(classifier.class_names[label])}.png"
            for name in names
            for label in images
        }
        if output.is_dir():
            for file in files.values():
                check_free(file, arguments.overwrite, option=" with --output")
        with writing(output):
            output.mkdir(parents=True, exist_ok=True)
        made = {name: Decoder(classifier.model, name) for name in names}
        for (name, label), file in files.items():
            figure = plot_perturbed(made[name].perturb(images[label], label), classifier.class_names[label])
            with replacing(file) as unfinished:
                figure.savefig(unfinished)
    print(f"{len(files)} pictures written to {printable(str(output))}")
