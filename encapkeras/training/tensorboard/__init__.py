"""What the TensorBoard callback shows besides scalars: how it is computed, drawn and written.

Read `probe` (outputs on validation images, without side effects), `data` (those images), `figures` and `pictures`
(drawn with Matplotlib), `projector`, `gradient_norm`, `graph_tab`, `hparams`.
"""
