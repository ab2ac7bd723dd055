"""The folder for `lm_eval --include_path`; `python -m synbench_fast.integrations.lm_eval_tasks` prints its path."""
