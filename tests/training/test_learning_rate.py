import keras
import pytest
import torch

from encapkeras.spec.train_settings import TrainSettings
from encapkeras.training.optimizer.learning_rate import Schedule
from encapkeras.training.optimizer.make_optimizer import make_optimizer


@pytest.fixture(autouse=True)
def _double_precision():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


def rates(schedule, epochs=10, steps_per_epoch=5, learning_rate=2.0):
    settings = TrainSettings.model_validate({"schedule": schedule}).schedule
    rule = Schedule(settings, learning_rate, epochs, steps_per_epoch)
    return [float(rule(step)) for step in range(epochs * steps_per_epoch)]


def torch_rates(make, steps=50, learning_rate=2.0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], learning_rate)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_step_equals_torch():
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [15, 35], gamma=0.3))
    assert rates({"kind": "step", "milestones": [3, 7], "factor": 0.3}) == pytest.approx(theirs, abs=1e-12)


def test_cosine_equals_torch():
    theirs = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 50, eta_min=0.2))
    assert rates({"kind": "cosine", "final_factor": 0.1}) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("warmup", [None, 2, 5.5])
def test_one_cycle_equals_torch(warmup):
    share = 0.3 if warmup is None else warmup / 10
    theirs = one_cycle_of_torch(share)
    assert rates({"kind": "one_cycle", "warmup_epochs": warmup}) == pytest.approx(theirs, abs=1e-12)


def one_cycle_of_torch(share):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 2.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2.0, total_steps=50, pct_start=share, cycle_momentum=False
    )
    found = [optimizer.param_groups[0]["lr"]]
    for _ in range(49):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_warmup_rises_in_a_line_to_the_full_rate():
    found = rates({"kind": "constant", "warmup_epochs": 2})
    assert found[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)], abs=1e-12)
    assert found[10:] == [2.0] * 40


def test_a_part_of_an_epoch_is_a_warmup_too():
    assert rates({"kind": "constant", "warmup_epochs": 0.4})[:3] == pytest.approx([1.0, 2.0, 2.0])


@pytest.mark.parametrize("kind", ["constant", "cosine", "one_cycle"])
def test_a_training_shorter_than_its_warmup_only_rises(kind):
    found = rates({"kind": kind, "warmup_epochs": 8}, epochs=2)
    assert found == sorted(found)
    assert all(0 < rate <= 2.0 for rate in found)


@pytest.mark.parametrize("kind", ["constant", "cosine", "one_cycle"])
def test_a_single_step_has_a_rate(kind):
    (rate,) = rates({"kind": kind}, epochs=1, steps_per_epoch=1)
    assert 0 < rate <= 2.0


def test_a_constant_rate_without_warmup_is_a_plain_variable():
    optimizer = make_optimizer(TrainSettings(), 10)
    optimizer.learning_rate = 0.5  # Keras refuses this where there is a schedule
    assert float(optimizer.learning_rate) == 0.5
