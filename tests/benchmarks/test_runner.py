"""Ways take turns; medians, spreads, and what other processes used."""

from types import SimpleNamespace

import psutil
import pytest

from encapkeras.benchmarks import runner


def counting(name, order):
    values = iter(range(1, 100))

    def run():
        order.append(name)
        return 0.5, float(next(values))

    return run


@pytest.mark.parametrize("each", [True, False])
def test_ways_take_turns_and_give_medians_with_spreads(each):
    order = []
    ways = {name: counting(name, order) for name in "ab"}
    measured = runner.take_turns(ways, 3, scale=10, warm_up_each_round=each)
    assert "".join(order) == ("aabb" * 3 if each else "ab" * 4)
    values = [20, 40, 60] if each else [20, 30, 40]
    assert measured.median == dict.fromkeys("ab", values[1])
    assert measured.spread == {name: [values[0], values[2]] for name in "ab"}
    assert measured.first == dict.fromkeys("ab", 5)


def seconds(monkeypatch, *readings):
    """Make the clock, all processes' and the own seconds those of the readings, one after the other."""
    following = iter(readings)
    monkeypatch.setattr(runner, "_processor_seconds", lambda: next(following))


@pytest.mark.parametrize(
    ("end", "cores"),
    [
        ((10, 20, 5), 1.5),
        ((10, 5, 5), 0),
        ((10, 4.9, 5), 0),  # the system counts coarsely
        ((10, 1, 5), None),  # a container that reports nothing of its machine
        ((0.2, 3, 1), None),
        (None, None),
    ],
)
def test_cores_of_other_processes(monkeypatch, end, cores):
    seconds(monkeypatch, (0, 0, 0), end)
    assert runner.OtherProcesses().cores() == cores


def test_own_processes_are_none_of_the_others():
    _, used, own = runner._processor_seconds()
    assert 0 < own <= used + 1


@pytest.mark.parametrize("error", [OSError, psutil.AccessDenied])
def test_a_system_that_does_not_tell(monkeypatch, error):
    def refuse():
        raise error

    monkeypatch.setattr(psutil, "cpu_times", refuse)
    assert runner.OtherProcesses().cores() is None


def test_a_busy_machine_is_warned_of_in_one_line(capsys):
    runner.warn_of_others([{"other_cores": 0.05}, {"other_cores": 0.62}, {"other_cores": None}, {}])
    err = capsys.readouterr().err
    assert err.startswith("warning: other processes used up to 0.6 cores") and err.count("\n") == 1


@pytest.mark.parametrize("reports", [[], [{"other_cores": 0.1}, {"other_cores": None}]])
def test_a_calm_machine_is_not(reports, capsys):
    runner.warn_of_others(reports)
    assert capsys.readouterr().err == ""


def test_seconds_of_a_process_that_has_ended():
    def ended():
        raise psutil.NoSuchProcess(1)

    assert runner._seconds_of(SimpleNamespace(cpu_times=ended)) == 0
