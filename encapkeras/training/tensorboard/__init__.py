"""What the TensorBoard callback shows in addition to scalars: how it is computed, drawn and written.

Read `predictions` (of validation images, without side effects), `figures` and `pictures` (drawn with Matplotlib),
`projector`, `gradient_norm`, `graph_tab`, `hparams`.
"""
