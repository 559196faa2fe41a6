"""From a spec file to a keras.Model, one step per file."""
