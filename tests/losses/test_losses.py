"""Losses equal the golden numbers and take labels in every form."""

import functools
import math
import re

import keras
import pytest
import torch
from support import golden

from encapkeras.errors import ArgumentError, ShapeError
from encapkeras.losses import (
    BinaryCrossEntropyLoss,
    CrossEntropyLoss,
    DiceLoss,
    MarginLoss,
    NegativeLogLikelihoodLoss,
    SideLoss,
    SpreadLoss,
    binary_cross_entropy,
    cross_entropy,
    margin_loss,
    negative_log_likelihood,
    spread_loss,
)

LOSSES = [MarginLoss, SpreadLoss, CrossEntropyLoss, NegativeLogLikelihoodLoss]
FUNCTIONS = [margin_loss, functools.partial(spread_loss, margin=0.2), cross_entropy, negative_log_likelihood]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("role", ["loss", "metrics"])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_functions_of_scores_and_targets_are_refused_where_keras_gives_labels_first(function, role, method):
    model, other = (keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]) for _ in range(2))
    model.compile("sgd", **{"loss": "mse", role: [function]})
    labels = keras.ops.eye(3)
    with pytest.raises(ArgumentError, match=r"gives labels, then scores.*Give compile loss=(\w+)\(\) instead"):
        getattr(model, method)(labels, labels, verbose=0)
    other.compile("sgd", loss=lambda targets, scores: function(scores, targets))
    getattr(other, method)(labels, labels, verbose=0)


def golden_loss(name):
    expected = golden.load(name)
    lengths = expected.inputs["lengths"].clone().requires_grad_()
    return expected, lengths, torch.tensor(expected.meta["target"])


def test_margin_loss_equals_the_original():
    expected, lengths, labels = golden_loss("loss_margin")
    loss = MarginLoss().call(labels, lengths).mean()  # Keras itself reduces in float32
    golden.assert_equal(loss, expected.outputs["loss"])
    loss.backward()
    golden.assert_equal(lengths.grad, expected.input_gradients["lengths"])


@pytest.mark.parametrize("epoch", [0, 30, 90])
def test_spread_loss_and_its_schedule_equal_the_formula(epoch):
    expected, lengths, labels = golden_loss(f"loss_spread_ep{epoch}")
    spread = SpreadLoss()
    spread.set_epoch(expected.meta["epoch"], epochs=expected.meta["max_epoch"])
    assert spread.margin == pytest.approx(expected.meta["m"], abs=1e-15)
    loss = spread.call(labels, lengths).mean()
    golden.assert_equal(loss, expected.outputs["loss"])
    loss.backward()
    golden.assert_equal(lengths.grad, expected.input_gradients["lengths"])


@pytest.mark.parametrize("epochs", [2, 30, 40, 41, 100])
def test_margin_of_the_spread_loss_grows_from_start_to_end_in_trainings_of_any_length(epochs):
    spread = SpreadLoss()
    margins = []
    for epoch in range(epochs):
        spread.set_epoch(epoch, epochs=epochs)
        margins.append(spread.margin)
    assert (margins[0], margins[-1]) == (pytest.approx(0.2), pytest.approx(0.9))
    assert margins == sorted(margins)


@pytest.mark.parametrize("step", [0, 100_000, 200_000, 400_000, 1_000_000])
def test_margin_of_the_spread_loss_grows_as_in_the_code_of_matrix_capsules(step):
    loss = SpreadLoss(start=0.2, end=0.99, start_epoch=0, final_epochs=0, growth="sigmoid")
    loss.set_epoch(step, 700_000)
    assert loss.margin == pytest.approx(0.2 + 0.79 / (1 + math.exp(-min(10, step / 50_000 - 4))), abs=1e-12)


def test_cross_entropy_equals_torch():
    scores = torch.rand(5, 7, dtype=torch.float64)
    labels = torch.tensor([0, 6, 3, 3, 1])
    expected = torch.nn.functional.cross_entropy(4 * scores, labels)
    golden.assert_equal(CrossEntropyLoss(scale=4.0).call(labels, scores).mean(), expected, 1e-12)


def test_negative_log_likelihood_equals_torch_for_shares_and_for_their_multiples():
    shares = torch.rand(5, 7, dtype=torch.float64).softmax(1)
    labels = torch.tensor([0, 6, 3, 3, 1])
    expected = torch.nn.functional.nll_loss(shares.log(), labels)
    for scores in (shares, 3 * shares):
        golden.assert_equal(NegativeLogLikelihoodLoss().call(labels, scores).mean(), expected, 1e-12)
        golden.assert_equal(NegativeLogLikelihoodLoss().probabilities(scores), shares, 1e-12)


def test_smoothed_cross_entropy_equals_torch():
    scores = torch.rand(5, 7, dtype=torch.float64)
    labels = torch.tensor([0, 6, 3, 3, 1])
    expected = torch.nn.functional.cross_entropy(4 * scores, labels, label_smoothing=0.1)
    golden.assert_equal(CrossEntropyLoss(scale=4.0, label_smoothing=0.1).call(labels, scores).mean(), expected, 1e-12)


def test_smoothed_margin_loss_equals_the_formula():
    lengths, present, rest = torch.tensor([[0.5, 0.3]], dtype=torch.float64), 0.9, 0.1
    by_hand = present * 0.4**2 + 0.5 * rest * 0.4**2 + rest * 0.6**2 + 0.5 * present * 0.2**2
    loss = MarginLoss(label_smoothing=0.2).call(torch.tensor([0]), lengths)
    assert loss.item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("loss", [MarginLoss, CrossEntropyLoss])
@pytest.mark.parametrize("smoothing", [-0.1, 1.0, True])
def test_impossible_smoothing_is_refused(loss, smoothing):
    with pytest.raises(ArgumentError, match="label_smoothing"):
        loss(label_smoothing=smoothing)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch", [1, 4])
def test_labels_may_be_integers_columns_or_one_hot(loss, batch):
    scores = torch.rand(batch, 4)
    labels = torch.arange(batch) % 4
    forms = [labels, labels.to(torch.uint8), labels[:, None], torch.nn.functional.one_hot(labels, 4)]
    values = {round(loss()(form, scores).item(), 6) for form in forms}
    assert len(values) == 1


@pytest.mark.parametrize("loss", LOSSES)
def test_config_makes_the_same_loss(loss):
    original = loss(name="mine")
    again = keras.losses.deserialize(keras.losses.serialize(original))
    assert type(again) is loss
    assert again.get_config() == original.get_config()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_at_zero_lengths(loss):
    scores = torch.zeros(3, 4, requires_grad=True)
    loss()(torch.tensor([0, 1, 2]), scores).backward()
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("labels", [torch.zeros(3, 5), torch.zeros(2), torch.zeros(3, 4, 1)])
def test_labels_of_a_wrong_shape_are_refused_with_both_shapes(labels):
    with pytest.raises(ShapeError, match=r"scores of shape \(3, 4\) and labels of shape"):
        MarginLoss().call(labels, torch.zeros(3, 4))


def test_wrong_arguments_are_refused():
    with pytest.raises(ArgumentError, match="absent_weight: must be greater than or equal to 0; received -1"):
        MarginLoss(absent_weight=-1)
    with pytest.raises(ArgumentError, match="scale: must be greater than 0; received 0"):
        CrossEntropyLoss(scale=0)


def test_losses_work_in_fit_with_an_odd_last_batch():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="sigmoid")])
    for loss in LOSSES:
        model.compile(optimizer="sgd", loss=loss())
        history = model.fit(torch.rand(9, 4), torch.arange(9) % 3, batch_size=4, verbose=0)
        assert history.history["loss"][0] > 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 4]), "labels must be whole numbers from 0 to 2, one less than the classes; received 4"),
        (torch.tensor([0, -1]), "received -1 at index (1,)"),
        (torch.tensor([0.0, 1.7]), "received 1.7"),
        (torch.tensor([[0, 1, 2], [0, 1, 0]]), "one-hot targets must lie between 0 and 1; received 2 at index (0, 2)"),
        (torch.tensor([[0.0, float("nan"), 1.0], [0, 1, 0]]), "received nan"),
    ],
)
def test_impossible_labels_are_refused_with_their_place(labels, message):
    with pytest.raises(ArgumentError) as error:
        MarginLoss().call(labels, torch.rand(2, 3))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("loss", "score", "advice"),
    [
        (BinaryCrossEntropyLoss, 1.5, "from_logits: true; received 1.5"),
        (BinaryCrossEntropyLoss, -0.5, "from_logits: true; received -0.5"),
        (DiceLoss, 1.5, "from_logits: true; received 1.5"),
        (NegativeLogLikelihoodLoss, -0.5, "at least 0; for other scores there is cross_entropy; received -0.5"),
    ],
)
def test_scores_that_a_loss_would_not_see_are_refused(loss, score, advice):
    scores = torch.tensor([[0.5, score]])
    scores, labels = (scores[:, None, None], torch.ones(1, 1, 1)) if loss is DiceLoss else (scores, torch.ones(1))
    with pytest.raises(ArgumentError, match=re.escape(advice)):
        loss()(labels, scores)


@pytest.mark.parametrize("loss", [SpreadLoss, CrossEntropyLoss, NegativeLogLikelihoodLoss])
@pytest.mark.parametrize(("row", "total"), [([1, 1, 0, 0], "2"), ([0, 0, 0, 0], "0"), ([0.5, 0.25, 0, 0], "0.75")])
def test_losses_of_one_class_refuse_rows_of_several_and_of_none(loss, row, total):
    labels = torch.tensor([[0, 1, 0, 0], row], dtype=torch.float32)
    with pytest.raises(ArgumentError, match=rf"row 1 sums to {total}\. Use the margin loss"):
        loss()(labels, torch.rand(2, 4))
    with pytest.raises(ArgumentError, match="one class for each sample"):
        loss().call(labels.bool() if total in "02" else labels.bfloat16(), torch.rand(2, 4))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_soft_labels_that_sum_to_1_but_for_rounding_are_taken(loss, dtype):
    soft = torch.softmax(torch.rand(50, 1000), 1).to(dtype)
    assert torch.isfinite(loss().call(soft, torch.rand(50, 1000))).all()


@pytest.mark.parametrize(("loss", "lost"), [(BinaryCrossEntropyLoss, -math.log(0.9)), (MarginLoss, 0.0)])
def test_one_class_by_itself_may_be_absent(loss, lost):
    for label, score in ((0.0, 0.1), (1.0, 0.9)):
        assert loss()(torch.tensor([[label]]), torch.tensor([[score]])).item() == pytest.approx(lost, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("from_logits", [False, True])
def test_binary_cross_entropy_of_half_precision_is_that_of_the_same_numbers_in_single(dtype, from_logits):
    scores, targets = torch.tensor([[1.0, 0.0, 0.25], [0.0, 1.0, 0.75]], dtype=dtype), torch.eye(2, 3, dtype=dtype)
    found = binary_cross_entropy(scores, targets, from_logits=from_logits)
    expected = binary_cross_entropy(scores.float(), targets.float(), from_logits=from_logits)
    assert torch.equal(found, expected.to(dtype))
    assert torch.isfinite(found).all()


def test_the_margin_loss_wants_every_present_class_to_be_long():
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = MarginLoss().call(labels, torch.tensor([[0.9, 0.9, 0.1], [0.1, 0.1, 0.1]]))
    missed = MarginLoss().call(labels, torch.tensor([[0.9, 0.0, 0.1], [0.1, 0.1, 0.5]]))
    assert found.tolist() == pytest.approx([0, 0])
    assert missed.tolist() == pytest.approx([0.9**2, 0.5 * 0.4**2])


def test_the_old_names_of_metrics_are_read():
    with pytest.warns(DeprecationWarning, match="Old: 'figures' is deprecated; call it 'metric_names'"):

        class Old(SideLoss):
            """Mean of a tensor.

            Call arguments:
                features: Any tensor.
            """

            figures = ("largest",)

            def call(self, features):
                self.report(largest=features.max())
                return features.mean()

    loss = Old()
    loss(features=torch.ones(2, 3))
    assert loss.metric_names == ("largest",)
    with pytest.warns(DeprecationWarning, match="call take_metrics"):
        assert loss.take_figures() == {"largest": 1}
