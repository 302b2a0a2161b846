import re


def score(prompt, completions, row):
    """1 for a completion that is the right number and nothing else, 0 for others."""
    return [float(number(text) == int(row["answer"])) for text in completions]


def number(text):
    return int(text) if re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", text) else None
