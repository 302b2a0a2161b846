"""What travels between processes arrives as it was."""

import pickle

from rlhf.records import Message, Prompt
from rlhf.records.pickling import Pickled


def test_who_is_sent_something_pickled_gets_the_thing_itself():
    prompts = [Prompt("a", (Message("user", "?"),), (1, 2)), Prompt("b", (), (3,))]
    buffers: list[pickle.PickleBuffer] = []
    sent = pickle.dumps([Pickled(prompts)], protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 1  # and is not copied into what goes around it
    assert pickle.loads(sent, buffers=buffers) == [prompts]
    assert pickle.loads(pickle.dumps(Pickled(prompts), protocol=5)) == prompts
