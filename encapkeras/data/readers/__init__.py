"""One data set per file; each registers itself. `class_folders` and `object_boxes` serve several of them."""
