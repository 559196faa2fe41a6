"""What routing, transport, a training step and the input pipeline cost on this machine.

Read `runner` first: ways take turns, round by round, and their medians count. Then one file per benchmark, each with a
`measure` that takes plain values and returns plain data, and `as_table`; `routing_methods` and `routing_sizes` have
what `routing` measures, `peer_methods` what `peers` does. `network` has the networks that `step` and `peers` train,
`recorded` their convolutions. `everything` measures all within a time limit: the parts of `all_parts`, of which
`time_line` has no command of its own. Baselines are in `encapkeras.reference`, the command line in
`encapkeras.cli.bench`.
"""
