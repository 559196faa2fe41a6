"""The words of starter specs, as they will stand in the file: `@{name}` is filled in by `starter`.

A tab stands before each remark at the end of a line; `starter` brings those of neighbours below each other.
"""

from __future__ import annotations

HEAD = """\
# yaml-language-server: $schema=@{schema}
# A @{size} network for @{dataset}: images of @{height}x@{width}x@{channels}, @{classes} classes.
# @{idea}
#
#   encapkeras check @{file}\t# finds all mistakes
#   encapkeras show @{file}\t# the nodes, their shapes and their parameters
#   encapkeras train @{file}\t# add --set train.epochs=1 for a trial
#
# $name stands for a value of 'vars', of a row of 'repeat', or of the data set, which gives
# $classes, $height, $width and $channels. $(...) computes with them.
spec: encapkeras/1
name: @{name}
"""

IDEAS = {
    "master": "Master convolutions: each capsule type is convolved by itself.",
    "approximate": "Approximate routing: a second branch looks at all capsule types, and each branch weighs the other.",
    "dynamic": "Dynamic routing: capsules go where others agree with them.",
    "em": "EM routing: the capsule of a class is a cluster of what the capsules below say.",
}

VARIABLES = """
vars:
  types: @{types}\t# kinds of capsules at each place of a map; more see more, and cost more
  class_dim: @{class_dim}\t# numbers in the capsule of a class, whose length is the class's score
"""

STAGE_VARIABLES = """\
  kind: @{kind}\t# master: types see themselves; approximate: they see each other, at a price
  sub_layers: @{sub_layers}\t# steps of a stage after its first
"""

VOTING_VARIABLES = """\
  iterations: @{iterations}\t# of routing; 1 to 3 learn well
"""

DATA = """
data:
  dataset: @{dataset}\t# or digits, fashion_mnist, cifar10, svhn, npz, image_folder
"""

DATA_REST = """\
  batch_size: @{batch_size}\t# images in a step
  validation: @{validation}\t# part of the training images held out, which tell the best epoch
"""

AUGMENT = """\
  augment: @{augment}\t# random changes of the training images
"""

NO_AUGMENT = """\
  # augment: @{augment}\t# random changes of the training images, for long trainings
"""

CONVOLUTIONS = """
model:
  nodes:
    # Convolutions, each with batch norm and ReLU. Each row of 'repeat' is a node: conv1, conv2 ...
    conv$i:
      repeat:
@{rows}
      layer: conv_bn_relu
      inputs: $previous\t# the row before; before the first row, the node above or the image
      filters: $filters
      strides: $stride
"""

STAGES = """
    # Stages of capsules, longer from row to row; a stride of 2 halves the map, and 'shrink' says how much smaller than
    # the image it has become. A row more is a stage more: then name the last one below.
    stage$i:
      repeat:
@{rows}
      layer: capsule_stage
      inputs: $previous
      types: $types
      dim: $dim
      strides: $stride
      kind: $kind
      sub_layers: $sub_layers
      expect: [@{sides}, $types, $dim]\t# is checked

    # One capsule for each class, made of all capsules of the last stage.
    class_capsules: {layer: capsule_dense, inputs: @{last}, capsules: $classes, dim: $class_dim}
"""

PRIMARY = """
    # The first capsules: the last convolution's map, convolved again and cut into types.
    capsules:
      layer: primary_capsules
      inputs: @{conv}
      types: $types
      dim: @{dim}
      kernel_size: 3
      padding: 1
      strides: @{strides}
      batch_norm: true
      relu: true
      squash: false
      expect: [@{sides}, $types, @{dim}]\t# is checked
"""

ACTIVATIONS = """
    # How much each capsule counts.
    channels: {layer: capsules_to_image, inputs: capsules}
    activations: {layer: conv_bn_relu, inputs: channels, filters: $types}
"""

ROUTED = """
    # Routed to a map of 4x4 places, from which the classes are routed.
    routed:
      layer: @{layer}
      inputs: @{inputs}
      capsules: $(4 * 4 * types)
      dim: 16
      map_types: $types
      iterations: $iterations
@{more}      expect: [4, 4, $types, 16]
"""

ROUTED_CLASSES = """
    # One capsule for each class.
    class_capsules:
      layer: @{layer}
      inputs: @{inputs}
      capsules: $classes
      dim: $class_dim
      iterations: $iterations
@{more}"""

OUTPUTS = """
    # The lengths of the capsules are the scores of the classes.
    lengths: {layer: capsule_length, inputs: class_capsules, expect: [$classes]}
  outputs: {classes: lengths}
"""

LOSSES = """
losses:
  classes: {loss: margin}\t# or spread, cross_entropy
"""

TRANSPORT = """\
  # Optimal transport: what the higher capsules ('latent') say of the images of a batch, mapped down, should be what the
  # lower ones ('target') say. It counts in training alone. A weight of 1 suits short trainings; the authors' 20 is for
  # their 600 epochs.
@{units}
"""

TRAIN = """
train:
  epochs: @{epochs}\t# @{epochs_remark}
  optimizer: {kind: adam, learning_rate: 2e-3}\t# or sgd, rmsprop
  schedule: {kind: @{schedule}}\t# of the learning rate: constant, step, cosine, one_cycle
"""

WEIGHT_DECAY = """\
  weight_decay: {kind: decoupled, rate: 0.01}\t# against learning by heart
"""

EARLY_STOPPING = """\
  # early_stopping: {patience: 5}\t# ends when the validation accuracy no longer rises
"""
