"""What commands print: errors and warnings of specs with their source lines, and tables.

Read `table` (every command's table), `spec_errors` (with `source_excerpt`), then `node_table` and `difference_table`,
which `encapkeras show` prints.
"""
