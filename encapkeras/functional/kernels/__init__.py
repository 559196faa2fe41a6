"""Compiled kernels for loops that torch's operations run in many passes over memory; all optional.

Read `choice` first: which kernels run is decided there, by ENCAPKERAS_KERNELS. Torch's operations are always there, and
kernels are tested against them. Bits differ between the two, by rounding alone.
"""
