import signal

import pytest

from encapkeras.training.held_interrupt import defer_ctrl_c


def test_ctrl_c_waits_until_the_block_has_ended():
    done = []
    with pytest.raises(KeyboardInterrupt), defer_ctrl_c():
        signal.raise_signal(signal.SIGINT)
        done.append(True)
    assert done
    with defer_ctrl_c():
        pass
