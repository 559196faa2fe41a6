"""Each function of `torch_internals` does what it says: one test for each, which fails when torch changes."""

import json
import multiprocessing
import subprocess
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import scalar

from encapkeras import torch_internals as internals

pytestmark = pytest.mark.smoke


def test_tensors_without_values_have_shapes_on_any_device():
    with internals.without_values():
        left = torch.empty(2**20, 2**20)
        product = left @ left[:, :3]
        elsewhere = torch.empty(2**20, 2**20, device="cuda")
    assert product.shape == (2**20, 3) and elsewhere.device.type == "cuda"
    assert all(internals.is_fake(tensor) for tensor in (left, product, elsewhere))
    assert not internals.is_fake(torch.zeros(2)) and not internals.is_fake(torch.zeros(2, device="meta"))


def test_each_operation_is_seen_in_forward_and_backward_passes_and_in_the_type_of_autocast():
    def see(operation, arguments, named):
        seen.append((operation.overloadpacket, [part.dtype for part in arguments[:2] if torch.is_tensor(part)]))
        torch.zeros(2) + 1  # is not seen

    seen, image, kernel = [], torch.rand(1, 1, 4, 4), torch.rand(1, 1, 2, 2, requires_grad=True)
    with internals.each_operation(see):
        with torch.autocast("cpu", torch.bfloat16):
            output = torch.nn.functional.conv2d(image, kernel)
        output.sum().backward()
    torch.nn.functional.conv2d(image, kernel)
    aten, half = torch.ops.aten, torch.bfloat16
    found = [entry for entry in seen if entry[0] in (aten.convolution, aten.convolution_backward, aten.add)]
    assert found == [(aten.convolution, [half, half]), (aten.convolution_backward, [half, half])]


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_tracing_is_torchscript_alone():
    found = []

    def ask(tensor):
        found.append(internals.is_tracing())
        return tensor + 1

    ask(torch.zeros(2))
    torch.jit.trace(ask, torch.zeros(2), check_trace=False)
    assert found == [False, True]


def test_limited_recompiles_ends_after_so_many_shapes():
    translated = []

    def backend(graph, inputs):
        translated.append(inputs)
        return graph.forward

    def double(tensor):
        return tensor * 2

    compiled = torch.compile(double, backend=backend, dynamic=False)
    try:
        with internals.limit_recompiles(3):
            for size in range(2, 8):
                assert torch.equal(compiled(torch.ones(size)), torch.full((size,), 2.0))
    finally:
        torch.compiler.reset()
    assert len(translated) == 3


def test_copy_all_copies_each():
    targets = [torch.zeros(2), torch.zeros(3, 1)]
    internals.copy_all([target.data for target in targets], [torch.ones(2), torch.full((3, 1), 2.0)])
    assert [target.tolist() for target in targets] == [[1, 1], [[2], [2], [2]]]


def test_add_all_gives_the_numbers_of_single_additions():
    torch.manual_seed(0)
    pairs = [(torch.randn(5, 7), torch.randn(5, 7)) for _ in range(3)]
    added = internals.add_all([a for a, _ in pairs], [b for _, b in pairs], 1e-3)
    for result, (tensor, other) in zip(added, pairs, strict=True):
        assert torch.equal(result, torch.add(tensor, other, alpha=1e-3))


def test_multiplied_squared_and_mixed_tensors_have_the_numbers_of_single_operations():
    generator = torch.Generator().manual_seed(0)
    tensors, others = ([torch.randn(size, 7, generator=generator) for size in (5, 33)] for _ in range(2))
    factor, rest = torch.tensor(0.99), 1 - torch.tensor(0.99)
    expected = [factor * tensor + rest * other for tensor, other in zip(tensors, others, strict=True)]
    multiplied, squared = internals.multiply_all(tensors, factor), internals.square_all(tensors)
    for tensor, product, square in zip(tensors, multiplied, squared, strict=True):
        assert torch.equal(product, factor * tensor) and torch.equal(square, torch.square(tensor))
    internals.mix_all(tensors, others, factor, rest)
    assert all(torch.equal(*pair) for pair in zip(tensors, expected, strict=True))


def test_call_after_backward_waits_for_all_gradients_and_backward_for_it():
    first, second = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    moments = []

    def arrived(parameter):
        if not moments:
            internals.call_after_backward(done)
        moments.append("first" if parameter is first else "second")

    def done():
        moments.append(("done", first.grad is not None and second.grad is not None))

    for parameter in (first, second):
        parameter.register_post_accumulate_grad_hook(arrived)
    (torch.sin(first) * second).sum().backward()
    assert sorted(moments[:2]) == ["first", "second"] and moments[2:] == [("done", True)]
    (first * second).sum().backward()
    assert moments[3:].count(("done", True)) == 0  # once for each time it was asked


def test_a_forward_pass_within_the_backward_pass_is_told_from_others():
    seen = []

    def double(x):
        seen.append(internals.is_in_backward())
        return (2 * x).sin()

    checkpoint(double, torch.ones(2, requires_grad=True), use_reentrant=False).sum().backward()
    double(torch.ones(2))
    assert seen == [False, True, False]


def test_end_workers_ends_the_processes():
    before = set(multiprocessing.active_children())
    batches = iter(DataLoader(list(range(100)), batch_size=None, num_workers=1, multiprocessing_context="fork"))
    next(batches)
    [worker] = set(multiprocessing.active_children()) - before
    assert worker.is_alive()
    internals.end_workers(batches)
    assert not worker.is_alive()
    internals.end_workers(batches)


def test_storage_key_is_that_of_the_memory():
    with internals.without_values():
        fake = torch.empty(4, 4)
        assert internals.storage_key(fake[1:].T) == internals.storage_key(fake) != internals.storage_key(fake.clone())
    real, other = torch.zeros(4, 4), torch.zeros(4, 4)
    assert internals.storage_key(real.flatten()[2:]) == internals.storage_key(real) != internals.storage_key(other)


def test_torch_counts_distances_by_our_operation():
    counter = FlopCounterMode(display=False, custom_mapping={internals.CDIST_FORWARD: lambda left, right, *_, **__: 7})
    with counter:
        torch.cdist(
            torch.rand(30, 4, requires_grad=True), torch.rand(40, 4), compute_mode="donot_use_mm_for_euclid_dist"
        )
    assert counter.get_total_flops() == 7


def test_torchrun_says_whether_its_store_stays_and_how_often_it_restarts(tmp_path, monkeypatch):
    script = tmp_path / "environment.py"
    script.write_text("import json, os; print(json.dumps(dict(os.environ)))")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS", raising=False)
    assert (internals.launcher_keeps_store(), internals.launcher_restarts()) == (False, 0)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=3"]
    done = subprocess.run([*torchrun, script], capture_output=True, text=True, check=True)
    for name, value in json.loads(done.stdout).items():
        monkeypatch.setenv(name, value)
    assert (internals.launcher_keeps_store(), internals.launcher_restarts()) == (True, 3)


def test_a_writer_into_a_file_of_ours_hands_it_all_events(tmp_path):
    class Events(list):
        add_event = list.append
        flush = close = lambda self: calls.append(len(self))

    events, calls = Events(), []
    with internals.writer_into(events, str(tmp_path)) as writer:
        writer.add_scalar("length", 3.0, 5)
        internals.file_writer(writer).add_event(Event(graph_def=b""))
        writer.flush()
    assert [(event.step, bool(event.wall_time)) for event in events] == [(5, True), (0, True)]
    assert set(calls) == {2} and len(calls) >= 3 and list(tmp_path.iterdir()) == []


def test_what_the_file_writer_is_given_is_in_the_file(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        internals.file_writer(writer).add_event(Event(graph_def=b""))
        internals.file_writer(writer).add_summary(scalar("length", 3.0), 5)
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert [(each.step, each.value) for each in accumulator.Scalars("length")] == [(5, 3.0)]
    assert accumulator.Tags()["graph"]
