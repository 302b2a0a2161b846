"""The families of collecting preferences: one file per algorithm, each one coroutine per prompt.

A file holds the algorithm's keys, how it is made of the services that it asks for, and what it
needs and gives. To add one: its file here, one in `conf/algorithm`, a test.
"""
