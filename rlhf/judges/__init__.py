"""What decides how good completions are: one file per judge.

A file holds the judge's keys, what it does inside a worker, and what it needs and gives. To add
one: its file here, one in `conf/judge`, a test.
"""
