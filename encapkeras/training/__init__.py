"""From a resolved spec to a finished run folder."""
