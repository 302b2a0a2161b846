"""Tools that the policy may call while it answers: one file per tool.

To add one: its file here, with its keys and `tool()`, one in `conf/tools`, a test.
"""
