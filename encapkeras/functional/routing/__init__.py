"""Routing: how the capsules of one layer decide which capsules of the next one they support.

Read `dynamic_routing`, then `em_routing`. `vote_moments` computes what both need without making votes, `attention`
runs an iteration piece by piece, `deferred_weight_gradient` sums the gradient of the matrices once, and
`routing_inputs` checks shapes. `couplings` makes the coefficients of each iteration again, for analyses. A new
routing is one file here, one layer in `encapkeras.layers`, and a test.
"""
