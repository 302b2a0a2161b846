"""Several judges' scores made one by a rule of your own."""


def gated(prompt, completions, parts):
    """Among right answers the shorter ones; what is wrong is worth nothing, however short it is."""
    scores = []
    for right, length in zip(parts["right"], parts["length"], strict=True):
        missing = right is None or length is None  # a judge failed, and nobody can tell
        scores.append(None if missing else right * (1 - min(length, 1)))
    return scores
