"""Servers that answer with anything: the planners and reasoners that ask them go on, and say what they did."""

import pytest
from chat_server import ChatServer, isolate, say
from faults import often
from faults.answers import WIRE, Number, fuzz_answers, nobody_asks

from trueline.chat import Chat, ChatError

QUESTION = [{"role": "user", "content": "4?"}]


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    isolate(monkeypatch)


@pytest.mark.faults
def test_hostile_answers_end_in_an_answer_a_stand_in_that_is_said_or_a_sentence(tmp_path):
    ends = fuzz_answers(tmp_path, count=often(40, 200))
    print(ends)
    assert ends["plan: model"] and ends["plan: rules"] and ends["ask: refused"]


def test_a_question_that_was_given_up_is_read_no_more_and_the_next_one_is_answered():
    """Such a server is never slow: no time limit of a read ends it."""
    with ChatServer(WIRE["continue without end"], say({"number": 4})) as server:
        chat = Chat.of("m", base_url=server.url, cache=False, timeout=0.5, retries=0)
        with pytest.raises(ChatError, match="no answer in 0 s"):
            chat.ask(QUESTION, Number)
        nobody_asks()
        assert chat.ask(QUESTION, Number) == Number(number=4)


def test_half_a_character_does_not_keep_a_wrong_answer_from_its_model():
    with ChatServer(say('{"number": "\ud800"}'), say({"number": 4})) as server:
        chat = Chat.of("m", base_url=server.url, cache=False)
        assert chat.ask(QUESTION, Number) == Number(number=4)
    assert server.requests[1]["messages"][-2]["content"] == '{"number": "?"}'
