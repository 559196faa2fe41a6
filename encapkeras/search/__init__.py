"""A search for settings: `encapkeras search`, with Optuna.

Read `space` (what is drawn from), `study` (which trial comes next, and the file that keeps the finished ones), `search`
(trains them), then `report` (the table and the picture). Nothing is imported here, since Optuna may not be installed.
"""
