"""The console script `encapkeras`, one file per command.

Read `main` (the list of commands, and how errors end), then a command, such as `check`. `arguments/` has what several
commands take, `terminal/` what they print. Imports at the top of these files stay light; heavy ones are in functions.
"""
