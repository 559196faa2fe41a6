"""Arguments that several commands share: device, spec, output file, run."""
