"""A run: its folder, and whether a training begins there or goes on.

Read `run_folder` (which file is what), `start` (begin or go on), `continued_run` and `spec_of_run` (what may have
changed since), `resume_state` and `appended_files` (all that a training needs to go on), `analysis_folder`.
"""
