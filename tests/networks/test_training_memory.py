"""Routing without votes trains at batch sizes that votes would not allow."""

import subprocess
import sys

import pytest

GIB = 2**30
STEPS = """
import resource
import numpy as np
import encapkeras

model = encapkeras.build_model("capnet_dynamic")
model.compile(optimizer="adam", loss=model.make_losses())
images = np.random.default_rng(0).uniform(size=(128, 32, 32, 3)).astype("float32")
losses = [float(model.train_on_batch(images, np.arange(128) % 10)) for _ in range(3)]
assert np.isfinite(losses).all()
kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(kilobytes * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_capnet_dynamic_trains_at_batch_128_in_a_part_of_24_gib():
    """The votes of 128 images are 8.6 GB in float32, and the textbook's backward pass keeps several of that size."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 * GIB
