"""What the TensorBoard callback writes, read from its files, and that it changes nothing."""

import csv
import io
import signal
import sys
import threading

import keras
import matplotlib.image
import numpy as np
import pytest
import torch
from support.side_loss_spec import spec_with
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata

from encapkeras import build_model
from encapkeras.callbacks import Resume, Stopwatch, TensorBoard
from encapkeras.data import Batches
from encapkeras.data.splits import balanced_order
from encapkeras.errors import ArgumentError, RunFolderError
from encapkeras.layers import CapsuleDense, CapsuleLength, ImageToCapsules
from encapkeras.losses import MarginLoss
from encapkeras.training.callbacks import tensorboard
from encapkeras.training.tensorboard import predictions
from encapkeras.training.tensorboard.event_file import open_event_file
from encapkeras.training.tensorboard.figures import draw_confusion
from encapkeras.training.tensorboard.predictions import Predictor

DRAWS = True  # see conftest.py
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.random((40, 4, 4, 1), dtype=np.float32)
LABELS = (IMAGES.mean((1, 2, 3)) > 0.5).astype("int64")
VALIDATION = (RANDOM.random((30, 4, 4, 1), dtype=np.float32), RANDOM.integers(0, 2, 30))


def capsule_model():
    """Two class capsules, with dropout, so that what draws random numbers or moves a statistic is found out."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            ImageToCapsules(types=2),
            CapsuleDense(capsules=2, dim=2),
            CapsuleLength(),
        ]
    )
    model.compile("adam", MarginLoss(), metrics=["accuracy"])
    return model


def fit(model, *callbacks, data=(IMAGES, LABELS), **options):
    options = {"batch_size": 10, "validation_data": VALIDATION, "epochs": 3, **options}
    if not isinstance(data, tuple):
        options.pop("batch_size")
        return model.fit(data, callbacks=list(callbacks), verbose=0, **options)
    return model.fit(*data, callbacks=list(callbacks), verbose=0, **options)


def read(folder):
    size = {"tensors": 0, "images": 0, "scalars": 0, "histograms": 0}
    return EventAccumulator(str(folder), size_guidance=size).Reload()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three epochs with pictures."""
    folder = tmp_path_factory.mktemp("board") / "run"
    settings = {"learning_rate": 1e-3, "spec": "tiny"}
    training_images = torch.from_numpy(IMAGES)
    board = TensorBoard(
        folder, VALIDATION, class_names=["even", "odd"], settings=settings, training_images=training_images
    )
    history = fit(capsule_model(), Stopwatch(40), board).history
    return folder, read(folder), history


def test_scalars_are_the_logs_gradients_and_memory(finished):
    _, events, history = finished
    tags = {
        "loss/training": "loss",
        "loss/validation": "val_loss",
        "accuracy/training": "accuracy",
        "accuracy/validation": "val_accuracy",
        "learning_rate": "learning_rate",
        "images_per_second": "images_per_second",
    }
    own = {"gradient_norm/mean", "gradient_norm/last", "memory/process_peak_GB"}
    assert set(events.Tags()["scalars"]) == set(tags) | own
    for tag in events.Tags()["scalars"]:
        assert [point.step for point in events.Scalars(tag)] == [1, 2, 3]
    for tag, name in tags.items():
        assert [point.value for point in events.Scalars(tag)] == pytest.approx(history[name])
    assert 0.1 < events.Scalars("memory/process_peak_GB")[0].value < 1000


def test_gradient_norms_are_those_of_all_weights_together(tmp_path):
    norms = []

    class Norms(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            gradients = [weight.value.grad.flatten() for weight in self.model.trainable_weights]
            norms.append(torch.cat(gradients).norm().item())

    fit(capsule_model(), TensorBoard(tmp_path), Norms(), epochs=2)
    events = read(tmp_path)
    assert [point.value for point in events.Scalars("gradient_norm/mean")] == pytest.approx(
        [np.mean(norms[:4]), np.mean(norms[4:])], rel=1e-5
    )
    assert [point.value for point in events.Scalars("gradient_norm/last")] == pytest.approx(norms[3::4], rel=1e-5)


def test_gradient_norms_are_without_the_scale_of_the_loss(tmp_path):
    for name, scale in (("plain", None), ("scaled", 64.0)):
        model = capsule_model()
        model.compile(keras.optimizers.SGD(0.0, loss_scale_factor=scale), MarginLoss())
        keras.utils.set_random_seed(1)
        fit(model, TensorBoard(tmp_path / name), epochs=1)
    plain, scaled = (read(tmp_path / name).Scalars("gradient_norm/mean")[0].value for name in ("plain", "scaled"))
    assert scaled == pytest.approx(plain, rel=1e-4)


def test_pictures_have_their_epochs(finished):
    _, events, _ = finished
    assert set(events.Tags()["images"]) == {"training images", "predictions", "confusion"}
    for tag in ("predictions", "confusion"):
        assert [image.step for image in events.Images(tag)] == [1, 2, 3]
    assert [event.step for event in events.Tensors("confusion/text_summary")] == [1, 2, 3]
    (grid,) = events.Images("training images")
    assert (grid.width, grid.height) == (8 * 6 + 2, 5 * 6 + 2)  # 40 images of 4x4, eight a row, 2 pixels between


@pytest.mark.parametrize(("every", "pictured"), [(None, [1, 2, 4, 5]), (1, [1, 2, 3, 4, 5]), (2, [2, 4, 5])])
def test_every_chooses_the_epochs_and_an_early_end_is_the_last(tmp_path, monkeypatch, every, pictured):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 4

    epochs = []
    monkeypatch.setattr(tensorboard, "write_pictures", lambda *given: epochs.append(given[-1]))
    fit(capsule_model(), TensorBoard(tmp_path, VALIDATION, every=every), Stop(), epochs=10)
    assert epochs == pictured


def test_the_confusion_matrix_is_that_of_validation(tmp_path):
    model = capsule_model()
    history = fit(model, TensorBoard(tmp_path, VALIDATION), epochs=1).history
    predicted = model.predict(VALIDATION[0], verbose=0).argmax(1)
    event = read(tmp_path).Tensors("confusion/text_summary")[-1]
    rows = event.tensor_proto.string_val[0].decode().splitlines()[2:]
    told = {tuple(cells[1:3]): int(cells[3]) for cells in (row.split("|") for row in rows)}
    wanted = {}
    for true, taken in zip(VALIDATION[1], predicted, strict=True):
        if true != taken:
            wanted[f" {true} ", f" {taken} "] = wanted.get((f" {true} ", f" {taken} "), 0) + 1
    assert told == wanted
    assert 30 - sum(told.values()) == round(30 * history["val_accuracy"][0])


def test_histograms_of_lengths_are_of_own_and_of_other_images(finished):
    _, events, _ = finished
    names = [
        f"capsule_length_for_{which}/{name}" for name in ("even", "odd") for which in ("own_class", "other_classes")
    ]
    assert sorted(events.Tags()["distributions"]) == sorted(names)
    counts = {name: events.Histograms(name)[-1].histogram_value.num for name in names}
    even = int((VALIDATION[1] == 0).sum())
    assert [counts[name] for name in names] == [even, 30 - even, 30 - even, even]


def test_the_projector_has_vectors_labels_and_thumbnails_of_the_last_epoch_alone(finished):
    folder, _, _ = finished
    config = (folder / "projector_config.pbtxt").read_text()
    assert 'tensor_name: "class capsules, epoch 3"' in config
    assert config.count("embeddings") == 1
    vectors = np.loadtxt(folder / "projector" / "vectors.tsv", delimiter="\t")
    assert vectors.shape == (30, 2 * 2)
    text = (folder / "projector" / "labels.tsv").read_text()
    labels = list(csv.DictReader(text.splitlines(), delimiter="\t"))
    order = balanced_order(VALIDATION[1])
    assert [row["class"] for row in labels] == [("even", "odd")[label] for label in VALIDATION[1][order]]
    lengths = np.linalg.norm(vectors.reshape(30, 2, 2), axis=2)
    assert [row["predicted"] for row in labels] == [("even", "odd")[index] for index in lengths.argmax(1)]
    assert [float(row["score"]) for row in labels] == pytest.approx(lengths.max(1), abs=1e-4)
    assert matplotlib.image.imread(folder / "projector" / "thumbnails.png").shape[:2] == (6 * 4, 6 * 4)
    assert sorted(file.name for file in folder.iterdir() if not file.name.startswith("events")) == [
        "projector",
        "projector_config.pbtxt",
    ]


def test_settings_are_hyperparameters_in_a_file_of_their_own(finished):
    folder, _, _ = finished
    (file,) = folder.glob("*.hparams")
    contents = {tag: event.plugin_data.content for tag, event in read(file).summary_metadata.items()}
    start = metadata.parse_session_start_info_plugin_data(contents["_hparams_/session_start_info"])
    assert start.hparams["learning_rate"].number_value == 1e-3
    assert start.hparams["spec"].string_value == "tiny"
    assert "_hparams_/session_end_info" in contents


def test_the_training_goes_on_as_without(tmp_path):
    """Not a bit differs, although the validation data are a DataLoader, which draws a random number each time."""
    tensors = torch.utils.data.TensorDataset(*map(torch.as_tensor, VALIDATION))
    loader = torch.utils.data.DataLoader(tensors, batch_size=7, shuffle=True)
    histories, weights = [], []
    for callbacks in ([], [TensorBoard(tmp_path, loader)]):
        model = capsule_model()
        histories.append(fit(model, *callbacks, epochs=2).history)
        weights.append([weight.value for weight in model.variables])
    assert histories[0] == histories[1]
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


def test_side_losses_are_shown_and_not_disturbed(tmp_path):
    spec = spec_with({"align": {"loss": "optimal_transport", "latent": "stage", "target": "stage/input"}})
    images, labels = RANDOM.random((24, 8, 8, 1), dtype=np.float32), np.arange(24) % 10
    weights = []
    for callbacks in ([], [TensorBoard(tmp_path, (images, labels))]):
        keras.utils.set_random_seed(0)
        model = build_model(spec)
        model.compile("adam", model.make_losses(), metrics=["accuracy"])
        fit(model, *callbacks, data=(images, labels), batch_size=12, epochs=1, validation_data=None)
        weights.append([weight.value for weight in model.variables])
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))
    events = read(tmp_path)
    assert set(events.Tags()["images"]) == {
        "predictions",
        "confusion",
        "reconstructions/reconstruction",
        "transport_plan/align",
    }
    assert b"name: " in events.Tensors("spec/text_summary")[0].tensor_proto.string_val[0]


class CutShort(keras.callbacks.Callback):
    """Ends the program in the middle of an epoch, as a crash would."""

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == 6:  # epoch 2, after its second step of four
            raise InterruptedError


@pytest.fixture
def signals_as_before():
    """A crash leaves the signals to `Resume`; the process of the tests goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_as_before")
@pytest.mark.parametrize("cut_short", [CutShort, None])
def test_a_training_that_goes_on_has_every_point_once(tmp_path, monkeypatch, cut_short):
    """Cut short within an epoch, or finished and run again: all points are those of one that went through."""
    drawn = []
    monkeypatch.setattr(tensorboard, "write_pictures", lambda *given: drawn.append(given[-1]))

    def run(folder, *also):
        board = TensorBoard(folder / "board", VALIDATION, training_images=torch.from_numpy(IMAGES))
        resume = Resume(folder / "resume", also=[board], minutes=0)
        fit(capsule_model(), resume, board, *also)

    run(tmp_path / "whole")
    assert drawn == [1, 2, 3]
    if cut_short:
        with pytest.raises(InterruptedError):
            run(tmp_path / "parts", cut_short())
        assert drawn[3:] == [1]
    run(tmp_path / "parts")
    assert drawn[-3:] == [1, 2, 3]
    run(tmp_path / "parts")  # nothing is left to do
    whole, parts = read(tmp_path / "whole" / "board"), read(tmp_path / "parts" / "board")
    assert whole.Tags() == parts.Tags()
    for tag in whole.Tags()["scalars"]:
        one, other = ([(point.step, point.value) for point in events.Scalars(tag)] for events in (whole, parts))
        assert one == other or tag == "memory/process_peak_GB"
        assert [step for step, _ in other] == [1, 2, 3]
    assert len(parts.Images("training images")) == 1


class Numbers(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(10 * index, 10 * index + 10)
        return VALIDATION[0][part], VALIDATION[1][part]


def test_validation_data_come_in_all_forms_that_fit_takes():
    predictor = Predictor(capsule_model())
    tensors = tuple(map(torch.as_tensor, VALIDATION))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=8)
    wanted = predictor.predict(VALIDATION)
    for data in ((VALIDATION[0], np.eye(2)[VALIDATION[1]]), tensors, loader, Numbers()):
        seen = predictor.predict(data)
        assert torch.equal(seen.labels, wanted.labels)
        assert torch.allclose(seen.scores, wanted.scores)
        assert torch.equal(seen.images, wanted.images)
        assert torch.allclose(seen.capsules, wanted.capsules)


def test_images_that_are_sorted_by_class_are_shown_balanced(monkeypatch):
    """Whatever gives them: in order of their batches, the first would all be of one class."""
    monkeypatch.setattr(predictions, "SHOWN", 8)
    monkeypatch.setattr(predictions, "EMBEDDED", 10)
    images, labels = np.arange(40, dtype=np.float32).repeat(16).reshape(40, 4, 4, 1) / 40, np.arange(40) // 20
    tensors = torch.from_numpy(images), torch.from_numpy(labels)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=7)
    batches = Batches(*tensors, height=4, width=4, batch_size=7)
    shown = []
    for data in ((images, labels), (images, np.eye(2)[labels]), loader, batches):
        seen = Predictor(capsule_model()).predict(data)
        assert (len(seen.images), len(seen.capsules), len(seen.thumbnails)) == (8, 10, 10)
        assert torch.equal(seen.thumbnails[:8], seen.images)
        numbers = (seen.images[:, 0, 0, 0] * 40).round().int()
        assert torch.equal(numbers // 20, seen.labels[:8].int())
        assert seen.labels[:8].sum() == 4
        assert torch.allclose(seen.capsules.norm(dim=2), seen.scores[:10], atol=1e-5)
        shown.append(numbers.tolist())
    assert shown == [shown[0]] * 4


class Growing(keras.utils.PyDataset):
    """Batches whose number changes, a class each."""

    length = 3

    def __init__(self):
        super().__init__()

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return np.full((40, 4, 4, 1), index / 40, np.float32), np.full(40, index % 2)


def test_validation_data_may_change_their_length(monkeypatch):
    monkeypatch.setattr(predictions, "SHOWN", 8)
    data, predictor = Growing(), Predictor(capsule_model())
    for data.length in (3, 4, 1, 6):
        seen = predictor.predict(data)
        assert (len(seen.labels), len(seen.scores), len(seen.images)) == (40 * data.length, 40 * data.length, 8)
        assert torch.equal((seen.images[:, 0, 0, 0] * 40).round().long() % 2, seen.labels[:8])
        if data.length in (4, 6):
            assert seen.labels[:8].sum() == 4


def test_validation_data_that_are_shuffled_are_shown_balanced_each_time(monkeypatch):
    monkeypatch.setattr(predictions, "SHOWN", 8)
    images, labels = torch.arange(40.0).div(40).repeat(16, 1).T.reshape(40, 4, 4, 1), torch.arange(40) // 20
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8, shuffle=True)
    predictor, shown = Predictor(capsule_model()), []
    for _ in range(4):
        seen = predictor.predict(loader)
        torch.rand(3)
        assert seen.labels[:8].sum() == 4
        shown.append(seen.images)
    assert all(torch.equal(each, shown[0]) for each in shown)


@pytest.mark.parametrize("row", [[1, 1], [0, 0], [0.5, 0.5]])
def test_images_of_several_classes_or_none_have_a_sentence_instead_of_pictures(tmp_path, row):
    labels = np.eye(2)[VALIDATION[1]]
    labels[5] = row
    fit(capsule_model(), TensorBoard(tmp_path, (VALIDATION[0], labels)), epochs=1)
    events = read(tmp_path)
    assert not events.Tags()["images"]
    assert b"one class for each image" in events.Tensors("pictures/text_summary")[0].tensor_proto.string_val[0]


def test_a_network_of_logits_shows_probabilities_and_no_capsules(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fit(model, TensorBoard(tmp_path, VALIDATION), epochs=1)
    tags = read(tmp_path).Tags()
    assert set(tags["images"]) == {"predictions", "confusion"}
    assert not tags["distributions"]
    assert not (tmp_path / "projector").exists()


def test_a_subclassed_model_is_shown_too(tmp_path):
    class Flat(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2, activation="sigmoid")

        def call(self, images):
            return self.dense(keras.ops.reshape(images, (-1, 16)))

    model = Flat()
    model.compile("adam", MarginLoss())
    fit(model, TensorBoard(tmp_path, VALIDATION), epochs=1)
    assert set(read(tmp_path).Tags()["images"]) == {"predictions", "confusion"}


def test_scores_that_are_not_finite_are_told_in_words(tmp_path):
    model = capsule_model()
    board = TensorBoard(tmp_path, VALIDATION)
    model.layers[0].kernel.assign(keras.ops.full((3, 3, 1, 4), float("nan")))
    fit(model, board, epochs=1)
    assert b"not finite" in read(tmp_path).Tensors("pictures/text_summary")[0].tensor_proto.string_val[0]


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_images_may_have_any_number_of_channels(tmp_path, channels):
    board = TensorBoard(tmp_path, training_images=torch.rand(100, 4, 4, channels))
    board.set_model(keras.Sequential())
    board.on_epoch_begin(0)
    board.close()
    (grid,) = read(tmp_path).Images("training images")
    assert grid.height == 8 * 6 + 2  # of 100 images, 64


@pytest.mark.slow
def test_two_hundred_classes_fit_into_one_picture():
    confusion = torch.eye(200, dtype=torch.long) * 5
    picture = io.BytesIO()
    draw_confusion(confusion, [f"n{index:08}" for index in range(200)]).savefig(picture)
    picture.seek(0)
    height, width, _ = matplotlib.image.imread(picture).shape
    assert 1500 < height <= 2500
    assert 1500 < width <= 2700


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"data": (VALIDATION[0], VALIDATION[1][:5])}, "does not hold as many labels as images"),
        ({"data": VALIDATION[0]}, "data must be arrays (images, labels)"),
        ({"data": iter([VALIDATION])}, "each time that it is iterated over"),
        ({"data": [VALIDATION[0]]}, "such pairs"),
        ({"data": []}, "data holds no images"),
        ({"data": (VALIDATION[0], VALIDATION[1] + 1)}, "from 0 to 1 for each image, or one-hot; received"),
        ({"data": (VALIDATION[0].reshape(30, 16), VALIDATION[1])}, "must hold images (batch, height, width, channels)"),
        ({"data": VALIDATION, "class_names": ["one"]}, "class_names holds 1 names; the model has 2 classes"),
    ],
)
def test_data_that_cannot_be_shown_are_refused(tmp_path, arguments, text):
    with pytest.raises(ArgumentError) as caught:
        fit(capsule_model(), TensorBoard(tmp_path, **arguments), epochs=1)
    assert text in str(caught.value)


def test_a_network_that_is_no_classifier_is_refused_before_the_first_step(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    with pytest.raises(ArgumentError, match=r"scores \(batch, classes\) of at least two classes; 'sequential"):
        fit(model, TensorBoard(tmp_path, VALIDATION))
    assert int(model.optimizer.iterations) == 0
    with pytest.raises(ArgumentError, match="every is a number of epochs, at least 1, or None; received 0"):
        TensorBoard(tmp_path, every=0)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file.tensorboard could not be written"):
        fit(capsule_model(), TensorBoard(tmp_path / "file" / "tensorboard"))


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit of file sizes on this system")
def test_a_full_disk_is_one_error_and_whole_events_before_it(tmp_path):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = open_event_file(tmp_path)
    threads = threading.active_count()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        with pytest.raises(OSError, match="too large"):
            for step in range(5):
                writer.add_text("long", "x" * 900_000, step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.close()
    assert threading.active_count() == threads
    [file] = tmp_path.iterdir()
    steps = [event.step for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
    assert steps == [0, 1]


def test_tensorboard_needs_no_tensorflow():
    assert "tensorflow" not in sys.modules
