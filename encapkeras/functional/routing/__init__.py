"""Routing: how the capsules of one layer decide which capsules of the next one they support.

Read `dynamic_routing`, then `em_routing`: all inputs to all outputs, without votes. `vote_moments` computes what both
need without making votes, `attention` runs an iteration piece by piece, `deferred_weight_gradient` sums the gradient of
the matrices once, and `couplings` makes the coefficients of each iteration again, for analyses.

Then `window_dynamic_routing`: parents have the children under a kernel. `windows` says which, `window_pieces` goes
through them piece by piece, `window_votes` makes their votes, and `type_votes` does without, where a window shares one
matrix per type; `window_positions` routes each parent by matrices of its own, and `window_gaussians` has the means and
variances of votes. On these stand `self_routing`, `inverted_attention`, `window_em_routing`, `variational_bayes` and
`heinsen_2019`. `heinsen_2022` has no votes. `convolution_dynamic_routing` routes maps by one convolution, and
`transposed_convolution_dynamic_routing` to larger maps by a transposed one.

`routing_inputs` checks shapes. A new routing is one file here, one layer in `encapkeras.layers`, and a test.
"""
