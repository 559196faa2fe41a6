import io
import re

import keras
import pytest
from support.tiny_spec import tiny_spec

from encapkeras import load_spec
from encapkeras.callbacks import MetricsFile, Resume
from encapkeras.cli.main import main
from encapkeras.errors import ArgumentError, TrainingError
from encapkeras.training import train


class Count(keras.callbacks.Callback):
    def __init__(self, stop_after=0):
        super().__init__()
        self.stop_after = stop_after
        self.epochs_seen = 0
        self.logs_seen = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs_seen += 1
        self.logs_seen = sorted(logs)
        if self.epochs_seen == self.stop_after:
            raise KeyboardInterrupt


def trained(folder, epochs=2, **options):
    return train(load_spec(tiny_spec(epochs=epochs)), folder / "run", **options)


def test_callbacks_come_after_ours_and_may_stop(tmp_path, capsys):
    count, lines = Count(), []
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", True))
    kept = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: lines.append((tmp_path / "run/metrics.csv").read_text().count("\n"))
    )
    trained(tmp_path, callbacks=[count, stop, kept], verbose=0)
    assert (count.epochs_seen, lines) == (1, [2])  # our row was written before
    assert {"accuracy", "val_loss", "learning_rate", "images_per_second"} <= set(count.logs_seen)
    assert capsys.readouterr() == ("", "")


def test_callbacks_are_saved_with_the_run_and_are_needed_to_resume_it(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt, match=r"train\(\.\.\., run_dir='.*run', resume=True, callbacks=\[\.\.\.\]\)"):
        trained(tmp_path, callbacks=[Count(stop_after=1)], verbose=0)
    before = (tmp_path / "run/environment.json").read_bytes()
    advice = r"train\(spec, run_dir='.*run', resume=True, callbacks=\[Count\(\.\.\.\)\]\)$"
    with pytest.raises(TrainingError, match=f"saved with Count in callbacks; now there is none.*{advice}"):
        trained(tmp_path, resume=True, verbose=0)
    assert main(["train", "--resume", str(tmp_path / "run")]) == 2
    assert "callbacks=[Count(...)]" in capsys.readouterr().err
    assert (tmp_path / "run/environment.json").read_bytes() == before
    count = Count()
    trained(tmp_path, resume=True, callbacks=[count], verbose=0)
    assert count.epochs_seen == 2  # the killed epoch was not saved: it comes again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"callbacks": [Count]}, r"the class Count itself; make a callback of it: Count\("),
        ({"callbacks": [print]}, "must be Keras callbacks; received builtin_function"),
        ({"callbacks": "Count"}, "a list of Keras callbacks; received str"),
        ({"callbacks": [Resume("states")]}, "takes no Resume"),
        ({"callbacks": [keras.callbacks.BackupAndRestore("states")]}, "takes no BackupAndRestore"),
        ({"verbose": 3}, r"verbose is 'auto', 0 .* or 2 .*; received 3"),
        ({"verbose": "all"}, "received 'all'"),
    ],
)
def test_what_cannot_be_is_refused_before_the_run_begins(tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        trained(tmp_path, **options)
    assert not list(tmp_path.iterdir())


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("verbose", "has_bar"), [("auto", True), (1, True), (2, False)])
def test_a_bar_only_by_verbose_1(tmp_path, monkeypatch, verbose, has_bar):
    output = Terminal()
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setenv("TERM", "xterm")
    trained(tmp_path, epochs=1, callbacks=MetricsFile(tmp_path / "second.csv"), verbose=verbose)
    text = output.getvalue()
    assert ("━" in text) == has_bar
    assert "run folder" in text and re.search(r"epoch 1/1.*  loss .* left", text) and "test accuracy" in text
    assert (tmp_path / "second.csv").is_file()
