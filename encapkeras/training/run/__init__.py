"""A run: its folder, and whether a training starts or resumes it.

Read `start` (which run this is, and what may have changed), `identity` (what may not), `run_folder` (which file is
what), `replace_run`, `resume_state` (all that is needed to continue to the bit; the weights alone are checkpoints),
`known_runs` (how far each run has come), `analysis_folder` (of `encapkeras analyse`).
"""
