"""What routing, transport, a training step and the input pipeline cost on this machine.

Read `runner` first: ways take turns, round by round, and their medians count. Then one file per benchmark, each with a
`measure` that takes plain values and returns plain data, and `as_table`; `routing_methods` and `routing_sizes` have
what `routing` measures. Their baselines are in `encapkeras.reference`; `encapkeras.cli.bench` has the command line.
"""
