"""Where prompts come from: one file per source.

A file holds the source's keys, how it is read, and what it gives. To add one: its file here, one in
`conf/data`, a test.
"""
