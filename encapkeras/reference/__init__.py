"""The textbook formulas, slow and literal: the oracle of tests and the baseline of benchmarks.

`routing_loops`, `window_routing_loops`, `window_gaussian_loops`, `heinsen_loops`, `homogeneous_vector_loops` and
`interest_loops` have a loop per capsule and are what tests compare with; `routing_votes`, `window_routing_votes`,
`heinsen_votes` and `homogeneous_vector_products` make all votes, as a careful engineer would; `transport` is plain
Sinkhorn with autograd; `encapnet` is the default network in plain torch, `peers` are published ones.
"""
