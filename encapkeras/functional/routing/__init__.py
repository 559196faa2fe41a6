"""Routing: how the capsules of one layer decide which capsules of the next one they support.

Read `dynamic_routing` and `em_routing`; `vote_moments` computes what they need without making votes,
`deferred_weight_gradient` its gradients, `attention` the same for approximate routing, `routing_inputs` checks shapes.
"""
