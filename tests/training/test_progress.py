import io
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from rich.console import Console

from encapkeras import load_spec
from encapkeras.errors import TrainingError
from encapkeras.training.callbacks import NonFiniteStop, Progress, Resume, Stopwatch
from encapkeras.training.callbacks.progress_text import epoch_line, metric_texts

PROJECT = Path(__file__).parents[2]
IMAGES = np.random.default_rng(0).random((40, 4, 4, 1), dtype=np.float32)
LABELS = (IMAGES.mean((1, 2, 3)) > 0.5).astype("int64")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def usual_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def small_model(outputs=1, **compiled):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1))
    flat = keras.layers.Flatten()(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(2, name=f"out{i}")(flat) for i in range(outputs)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": "adam", "loss": [loss] * outputs, "metrics": [["accuracy"]] * outputs, **compiled})
    return model


def fit(*callbacks, model=None, data=(IMAGES, LABELS), **options):
    given = {"batch_size": 10} if isinstance(data, tuple) else {}
    x, y = data if isinstance(data, tuple) else (data, None)
    options = {"epochs": 3, "validation_data": (IMAGES, LABELS), **given, **options}
    return (model or small_model()).fit(x, y, callbacks=list(callbacks), verbose=0, **options)


def lines_of(*before, output=None, progress=None, width=140, **options):
    output = output or io.StringIO()
    progress = progress or {"images": 40}
    fit(*before, Progress(console=Console(file=output, width=width), **progress), **options)
    return output.getvalue().splitlines()


def test_without_a_terminal_it_is_one_line_an_epoch():
    lines = lines_of(Stopwatch(40))
    assert len(lines) == 3
    assert re.fullmatch(
        r"epoch 2/3  accuracy 0\.\d{4} val 0\.\d{4}  loss [\d.]+ val [\d.]+  [\d,]+ images/s  0:00:00 left", lines[1]
    )


def test_on_a_terminal_it_draws_a_bar_and_keeps_the_lines():
    text = "\n".join(lines_of(output=Terminal()))
    assert "━" in text and "\x1b[?25l" in text
    assert text.count(" val 0.") == 6


def test_it_draws_no_bar_if_told_so_or_in_a_dumb_terminal(monkeypatch):
    assert "━" not in "\n".join(lines_of(output=Terminal(), progress={"bar": False}))
    monkeypatch.setenv("TERM", "dumb")
    assert "━" not in "\n".join(lines_of(output=Terminal()))


@pytest.mark.parametrize("color", [True, False])
def test_a_file_has_no_bar_and_colors_only_by_force_color(monkeypatch, color):
    monkeypatch.setenv("FORCE_COLOR", "1") if color else monkeypatch.setenv("NO_COLOR", "1")
    output = io.StringIO()
    monkeypatch.setattr("sys.stdout", output)
    fit(Progress())
    text = output.getvalue()
    assert ("\x1b[" in text) == color
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)  # colors, not the movements of a cursor
    assert plain.isprintable() or not re.search(r"[^\n -~]", plain)
    assert [line[:9] for line in plain.splitlines()] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_no_color_on_a_terminal_leaves_the_bar(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    output = Terminal()
    monkeypatch.setattr("sys.stdout", output)
    fit(Progress())
    assert "━" in output.getvalue() and not re.search(r"\x1b\[[\d;]+m", output.getvalue())


def test_it_closes_its_bar_when_the_training_fails(monkeypatch):
    output = Terminal()
    progress = Progress(40, Console(file=output))
    with pytest.raises(TrainingError):
        fit(NonFiniteStop(), progress, data=(IMAGES * np.nan, LABELS))
    assert "\x1b[?25h" not in output.getvalue()
    progress.close()
    assert output.getvalue().count("\x1b[?25h") == 1  # the cursor is back
    fit(progress)  # and it can be used again
    assert output.getvalue().count("\x1b[?25h") == 2


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(image, label) for image, label in zip(IMAGES, LABELS, strict=True)])


def generated(batches):
    return ((IMAGES[:10], LABELS[:10]) for _ in range(batches))


UNKNOWN_LENGTH = pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras says so after the first epoch


@UNKNOWN_LENGTH
@pytest.mark.parametrize(
    ("data", "options", "unit"),
    [
        (lambda: (IMAGES, LABELS), {}, "images/s"),
        (lambda: torch.utils.data.DataLoader(Stream(), batch_size=10), {}, "images/s"),
        (lambda: generated(8), {"steps_per_epoch": 4}, "steps/s"),
        (lambda: generated(4), {"epochs": 1}, "steps/s"),
        (lambda: (IMAGES, LABELS), {"steps_per_epoch": 2}, "images/s"),
        (lambda: (IMAGES, LABELS), {"validation_data": None}, "images/s"),
        (lambda: (IMAGES, LABELS), {"validation_freq": 2}, "images/s"),
    ],
)
def test_it_needs_no_arguments_in_any_fit(monkeypatch, data, options, unit):
    monkeypatch.setenv("COLUMNS", "140")
    options = {"epochs": 2, "shuffle": False, **options}
    model = small_model()
    for output in (io.StringIO(), Terminal()):
        monkeypatch.setattr("sys.stdout", output)
        fit(Progress(), model=model, data=data(), **options)
        plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "", output.getvalue())
        lines = re.findall(rf"(epoch \d/\d)  accuracy [^\n]*  loss [^\n]*  [\d,.]+ {unit}  \d+:\d\d:\d\d left\n", plain)
        assert lines == [f"epoch {epoch + 1}/{options['epochs']}" for epoch in range(options["epochs"])]


def test_images_are_counted_with_the_last_batch(monkeypatch):
    for rows, expected in ((40, "40"), (33, "33")):
        speeds = [line.split()[-4] for line in clocked(monkeypatch, data=(IMAGES[:rows], LABELS[:rows]), seconds=0.25)]
        assert speeds == [expected] * 3, rows


def test_several_outputs_a_second_fit_and_evaluate(monkeypatch):
    output = io.StringIO()
    progress, model = Progress(console=Console(file=output, width=200)), small_model(outputs=2)
    labels = [LABELS, LABELS]
    for epochs in (2, 1):
        fit(progress, model=model, data=(IMAGES, labels), validation_data=(IMAGES, labels), epochs=epochs)
    model.evaluate(IMAGES, labels, callbacks=[progress], verbose=0)
    lines = output.getvalue().splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2", "epoch 1/1"]
    for name in ("loss", "out0_accuracy", "out0_loss", "out1_accuracy", "out1_loss"):
        assert all(re.search(rf"  {name} [\d.]+ val [\d.]+  ", line) for line in lines)


class Clock(keras.callbacks.Callback):
    """Stands in for the module `time`: each of an epoch's steps, and each of a validation's, takes so many seconds."""

    now = 0.0

    def __init__(self, seconds, validation=0.0):
        super().__init__()
        self.seconds, self.validation = seconds, validation

    def perf_counter(self):
        return self.now

    def on_train_batch_begin(self, batch, logs=None):
        self.now += self.seconds

    def on_test_batch_begin(self, batch, logs=None):
        self.now += self.validation


def clocked(monkeypatch, *before, seconds=15.0, validation=0.0, **options):
    clock = Clock(seconds, validation)
    monkeypatch.setattr("encapkeras.training.callbacks.progress.time", clock)
    return lines_of(*before, clock, progress={"images": None}, **options)


def times_left(lines):
    return [line.split()[-2] for line in lines]


def test_a_training_that_goes_on_counts_its_own_epochs_alone(monkeypatch):
    lines = clocked(monkeypatch, initial_epoch=6, epochs=9)
    assert times_left(lines) == ["0:02:00", "0:01:00", "0:00:00"]


def test_steps_that_were_made_before_are_left_out(monkeypatch, tmp_path):
    class Killed(Exception):
        pass

    def kill(batch, logs):
        if model.optimizer.iterations == 6 * 4 + 2:  # half of the seventh epoch is done
            raise Killed

    model, killed = small_model(), keras.callbacks.LambdaCallback()
    killed.on_train_batch_begin = kill
    resume = Resume(tmp_path, minutes=0)
    with pytest.raises(Killed):
        fit(resume, killed, model=model, epochs=9)
    resume.close()
    lines = clocked(monkeypatch, Resume(tmp_path), epochs=9)
    assert times_left(lines) == ["0:02:00", "0:01:00", "0:00:00"]


def test_a_long_epoch_has_a_line_a_minute_and_the_first_early(monkeypatch):
    lines = clocked(monkeypatch, seconds=8.0, batch_size=2, epochs=2)
    form = r"epoch (\d)/2  step (\d+)/20  0 images/s  (\S+) left  loss \S+  accuracy \S+"
    found = [re.fullmatch(form, line) for line in lines]
    steps = [(int(each[1]), int(each[2])) for each in found if each]
    assert steps == [(1, 2), (1, 10), (1, 18), (2, 8), (2, 16)]  # after 16 s, then after more than a minute each
    assert found[0][3] == "0:05:04"
    assert [index for index, each in enumerate(found) if not each] == [3, 6]


@pytest.mark.parametrize(("seconds", "steps"), [(5.0, 10), (25.0, 2)])
def test_short_epochs_have_no_line_but_their_own(monkeypatch, seconds, steps):
    assert len(clocked(monkeypatch, seconds=seconds, batch_size=40 // steps)) == 3


@UNKNOWN_LENGTH
def test_an_epoch_of_unknown_length_has_a_line_a_minute(monkeypatch):
    data = torch.utils.data.DataLoader(Stream(), batch_size=4)
    lines = clocked(monkeypatch, data=data, seconds=11.0, epochs=2, shuffle=False)
    assert [line.split("  ")[1] for line in lines] == [
        "step 6",
        lines[1].split("  ")[1],
        "step 6/10",
        *lines[3].split("  ")[1:2],
    ]
    assert "left" not in lines[0] and lines[2].split("  ")[3] == "0:00:44 left"


def test_a_long_validation_and_a_long_test_have_a_line_a_minute(monkeypatch):
    lines = clocked(monkeypatch, seconds=1.0, validation=13.0, validation_batch_size=4, epochs=1)
    assert [line for line in lines if "validation" in line] == [
        "epoch 1/1  step 4/4  validation, step 5",
        "epoch 1/1  step 4/4  validation, step 10",
    ]
    clock, output = Clock(0.0, 13.0), io.StringIO()
    monkeypatch.setattr("encapkeras.training.callbacks.progress.time", clock)
    small_model().evaluate(
        IMAGES, LABELS, batch_size=4, callbacks=[clock, Progress(console=Console(file=output))], verbose=0
    )
    assert [line.split("  ")[:2] for line in output.getvalue().splitlines()] == [
        ["test", "step 5/10"],
        ["test", "step 10/10"],
    ]


@pytest.mark.parametrize("epochs", [100, None])  # None: those of the spec
def test_the_lines_of_all_bundled_specs_fit_80_columns(epochs):
    specs = [load_spec(file) for file in sorted((PROJECT / "specs").glob("*.yaml"))]
    assert len(specs) > 40
    for spec in specs:
        names = ["accuracy", "loss", *(loss.name for loss in spec.side_losses)]
        logs = {name: 12.3456 for name in names} | {f"val_{name}": 0.98765 for name in names}
        last = epochs or spec.train.epochs
        line = epoch_line(f"epoch {last}/{last}", metric_texts(logs), "12,345 images/s", "12:34:56 left", 80).plain
        assert len(line) <= 80
        assert "accuracy 12.346 val 0.9877  loss 12.346 val 0.9877" in line and line.endswith("  12:34:56 left")


def test_values_of_any_kind_have_a_text():
    logs = {
        "a": np.float32(2),
        "b": float("nan"),
        "c": torch.tensor(-1234.5678),
        "d": np.ones(3),
        "e": 1e9,
        "f": 123456,
        "text": "warm-up",
        "val_a": "none",
        "list": [0.5],
    }
    assert metric_texts(logs) == ["a 2.0000", "b nan", "c -1234.6", "e 1.00e+09", "f 123456"]


@pytest.mark.parametrize(("width", "end"), [(70, "loss S"), (40, "loss S"), (80, "loss S  accuracy S")])
def test_the_line_of_a_minute_has_the_loss_in_a_narrow_file_too(monkeypatch, width, end):
    lines = clocked(monkeypatch, seconds=15.0, batch_size=2, epochs=100, initial_epoch=98, width=width)
    plain = [re.sub(r"(loss|accuracy) [\d.]+", r"\1 S", line) for line in lines if "step" in line]
    assert plain[0] == f"epoch  99/100  step 2/20  0 images/s  0:09:30 left  {end}"


def test_a_test_after_an_error_in_fit_is_no_validation(monkeypatch):
    clock, output = Clock(0.0, 13.0), io.StringIO()
    monkeypatch.setattr("encapkeras.training.callbacks.progress.time", clock)
    progress, model = Progress(console=Console(file=output)), small_model()
    with pytest.raises(TrainingError):
        fit(NonFiniteStop(), progress, model=model, data=(IMAGES * np.nan, LABELS))
    model.evaluate(IMAGES, LABELS, batch_size=4, callbacks=[clock, progress], verbose=0)
    lines = output.getvalue().splitlines()
    assert [line.split("  ")[:2] for line in lines] == [["test", "step 5/10"], ["test", "step 10/10"]]
