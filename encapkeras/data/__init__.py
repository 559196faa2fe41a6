"""Data sets as batches of tensors: registry, readers, augmentation, splits."""
