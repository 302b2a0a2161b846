"""A table of squares, as a tool that the policy may call: `<<12=144>>`."""


def use(text):
    """What stands in the call; what is returned, the policy reads. An exception is read too."""
    return str(int(text) ** 2)
