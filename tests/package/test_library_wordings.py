"""The texts of other libraries that our messages are cut from; each test fails when a library rewords one.

Where a library has no attribute or exception class that says the same, its text is all there is.
"""

import io
import os
import pickle
import re
import signal

import keras
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.utils.data import DataLoader, Dataset

pytestmark = pytest.mark.smoke


def text_of(kind, function, *arguments, **named):
    with pytest.raises(kind) as caught:
        function(*arguments, **named)
    return str(caught.value)


class Odd(keras.layers.Layer):
    def call(self, inputs):
        if inputs.shape[-1] is not None:
            raise ValueError("an odd input")
        return inputs


class NeedsSize(keras.layers.Layer):
    def __init__(self, size):
        super().__init__()

    def get_config(self):
        return super().get_config()


def test_keras_puts_its_words_before_and_after_the_error_of_a_layer():
    """`plain_text` of model/build.py."""
    concrete = text_of(ValueError, Odd(), torch.ones(2, 3))
    assert re.match(
        r"^Exception encountered when calling [^\n]*\n+.*an odd input.*\n+Arguments received by ", concrete, re.S
    )
    symbolic = text_of(Exception, Odd(), keras.Input((3,)))
    assert "an odd input" in symbolic and symbolic.startswith(
        ("Exception encountered when calling ", "Could not automatically infer ")
    )


def test_keras_puts_its_words_before_the_error_of_a_configuration():
    """`_check_own_layer` of model/make_layer.py, `load_model` of model/load_model.py."""
    text = text_of(TypeError, NeedsSize.from_config, {})
    assert text.rpartition("Exception encountered: ")[2].startswith("NeedsSize.__init__() missing 1 required")


def test_keras_names_the_module_of_a_class_that_it_cannot_find():
    """`load_model` of model/load_model.py: the plugin that is missing."""
    config = {
        "module": "encapkeras_plugin_mine_0123abcd",
        "class_name": "Mine",
        "config": {},
        "registered_name": "Mine",
    }
    assert "encapkeras_plugin_mine_0123abcd" in text_of(TypeError, keras.saving.deserialize_keras_object, config)


def test_pydantic_says_input_should_be():
    """`validation.py`, which says "must be"."""
    for kind, value in ((int, "x"), (list, 1), (bool, 3), (str, 2)):
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(kind).validate_python(value, strict=True)
        assert [error["msg"].startswith("Input should be ") for error in caught.value.errors()] == [True]


def test_torch_says_that_the_processor_has_no_memory_left():
    """`training/memory/out_of_memory.py`; for GPUs torch has an exception class."""
    text = text_of(RuntimeError, torch.empty, 2**60, dtype=torch.uint8)
    assert any(sign in text for sign in ("can't allocate memory", "not enough memory", "DefaultCPUAllocator"))


def test_torch_names_the_class_that_a_checkpoint_may_not_load():
    """`interop/checkpoint_file.py`."""
    content = io.BytesIO()
    torch.save({"model": Odd.call}, content)
    content.seek(0)
    text = text_of(pickle.UnpicklingError, torch.load, content, weights_only=True)
    assert re.search(r"GLOBAL (\S+)", text)[1] in ("getattr", "builtins.getattr")


class Failing(Dataset):
    def __init__(self, killed):
        self.killed = killed

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("an odd image")


@pytest.mark.parametrize(
    ("killed", "start"), [(True, "DataLoader worker "), (False, "Caught RuntimeError in DataLoader worker ")]
)
def test_torch_says_whether_a_process_that_makes_batches_raised_or_ended(killed, start):
    """`data/worker_processes.py`."""
    loader = DataLoader(Failing(killed), num_workers=1, multiprocessing_context="fork")
    assert text_of(RuntimeError, next, iter(loader)).startswith(start)
