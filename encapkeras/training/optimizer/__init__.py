"""From the `train:` section of a spec to a Keras optimizer.

Read `make_optimizer`, then `learning_rate`, `coupled_weight_decay` and `averaged_weights`.
"""
