"""Optimal transport: how far two batches are apart, and the plan that carries one to the other.

Read `transport_divergence`; it uses `transport_cost` (distances between samples) and `sinkhorn` (the plan).
`transport_unit` holds generator and critic, which make the features that are compared.
"""
