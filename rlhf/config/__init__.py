"""Keys that several rooms read: of models, of a run, of reward training.

Those of an option stand in its own file; the whole configuration is
`rlhf.launching.configuration`. Defaults live in the schemas and are the vetted setting; the YAML
files under `conf/` state differences.
"""
