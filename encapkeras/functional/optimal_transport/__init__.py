"""Entropic optimal transport.

Read `sinkhorn` (plans), `transport_cost`, `transport_divergence`, then the paper's unit, `transport_unit` (generator
and critic).
"""
