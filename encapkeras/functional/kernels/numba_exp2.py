"""An exponential that the compiler can vectorize: numba's own calls a function for each number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from encapkeras.functional.kernels.numba_compiler import kernel_part

_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(8))
_LOWEST = np.float32(-126)


@kernel_part
def exp2(x: Any) -> Any:
    """`2^x` in float32, for x below 128: a Taylor polynomial of the fraction, to half a unit in the last place.

    Below -126 it is `2^-126`.
    """
    x = _LOWEST if x < _LOWEST else x
    whole = np.rint(x)
    f = x - whole
    power = _C0 + f * (_C1 + f * (_C2 + f * (_C3 + f * (_C4 + f * (_C5 + f * (_C6 + f * _C7))))))
    return power * np.int32((np.int32(whole) + 127) << 23).view(np.float32)
