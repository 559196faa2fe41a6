"""Trained networks as folders that hold all that their users need: `encapkeras pack`, `encapkeras.load`.

Read `packed_folder` (its files and their hashes), `pack` (from a run to a folder) with `card` (its README.md), `load`,
then `zoo`, the packed models that come with encapkeras. Nothing is imported here, so that a shell that completes the
names of the zoo need not wait.
"""
