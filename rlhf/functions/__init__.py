"""Functions that users bring along, named `file.py:name` or `package.module:name`."""
