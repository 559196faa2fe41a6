"""What editors and people read about the spec language: the JSON Schema, the reference page, starter specs.

Read `declarations` (what the language consists of, as plain data), `json_schema` (with `schema_types`),
`reference_page` (with `describe_types`), then `starter` and its `templates/`, which are valid specs. Nothing here
builds a network.
"""
