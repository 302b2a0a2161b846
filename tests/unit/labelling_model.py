"""What a good labelling model would say to the conversations of tests."""


def last_message(question: str) -> str:
    return question.split("=== The user's last message ===\n| ")[1].split("\n")[0]


def answer(question: str) -> str:
    message = last_message(question).lower()
    if "wrong" in message:
        return "dissatisfied: says it is wrong"
    return "satisfied: says thanks" if "thank" in message else "neither: a new topic"
