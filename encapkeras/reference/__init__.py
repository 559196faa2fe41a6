"""The textbook formulas, slow and literal: the oracle of the tests and the baseline of the benchmarks."""
