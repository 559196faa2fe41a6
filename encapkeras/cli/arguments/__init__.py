"""Arguments that several commands share, and what they mean.

`parser` parses them, `wrong_words` answers slips, `completion` answers shells.

| file | arguments | commands |
|---|---|---|
| `spec_arguments` | `SPEC`, `--set`, `--plugin` | all that read a spec; `--plugin`: all that build a network |
| `spec_search` | `PATH ...` | check |
| `output_file` | `-o`, `--overwrite` | all that write a file |
| `device` | `--device` | train, compare, evaluate, predict, analyse, export, bench |
| `trained_run` | `RUN`, `--data-root`, `--set`, `RUN_OR_MODEL` | train, evaluate, analyse; predict, export |
"""
