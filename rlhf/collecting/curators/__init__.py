"""Which of a round's pairs are trained on, and how: one file per curator.

To add one: its file here, one in `conf/curator`, a test.
"""
