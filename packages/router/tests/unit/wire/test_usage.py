"""The usage of the OpenAI wire, as providers really write it."""

import pytest
from msgspec import Raw
from stratmaster_router.domain.usage import Usage
from stratmaster_router.wire.usage import read_usage

READ: dict[str, Usage | None] = {
    '{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}': Usage(7, 3),
    '{ "completion_tokens" : 3 , "prompt_tokens" : 7 }': Usage(7, 3),
    '{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}': Usage(0, 0),
    '{"prompt_tokens":7}': Usage(7, 0),
    '{"prompt_tokens":7,"total_tokens":7}': Usage(7, 0),
    '{"prompt_tokens":7,"completion_tokens":null,"total_tokens":null}': Usage(7, 0),
    '{"completion_tokens":3,"total_tokens":10}': Usage(7, 3),
    '{"total_tokens":10}': Usage(10, 0),
    '{"prompt_tokens":null,"completion_tokens":3,"total_tokens":10}': Usage(7, 3),
    '{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":null,"completion_tokens_details":null}': Usage(
        7, 3
    ),
    '{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{},"completion_tokens_details":{}}': Usage(7, 3),
    '{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":5,"audio_tokens":1},'
    '"completion_tokens_details":{"reasoning_tokens":2,"accepted_prediction_tokens":null}}': Usage(7, 3, 5, 2),
    '{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":null},'
    '"completion_tokens_details":{"reasoning_tokens":null}}': Usage(7, 3),
    '{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":-1},'
    '"completion_tokens_details":{"reasoning_tokens":-1}}': Usage(7, 3),
    '{"prompt_tokens":7,"completion_tokens":3,"cost":0.5,"x":{"y":[null]}}': Usage(7, 3),
    '{"prompt_tokens":999999999999,"completion_tokens":1}': Usage(999999999999, 1),
    "": None,
    "null": None,
    "{}": None,
    "[]": None,
    "7": None,
    '"7"': None,
    "true": None,
    '{"completion_tokens":3}': None,
    '{"input_tokens":7,"output_tokens":3}': None,
    '{"prompt_tokens":-1,"completion_tokens":3}': None,
    '{"prompt_tokens":7,"completion_tokens":-3}': None,
    '{"completion_tokens":13,"total_tokens":10}': None,
    '{"prompt_tokens":"7","completion_tokens":3}': None,
    '{"prompt_tokens":7.5,"completion_tokens":3}': None,
    '{"prompt_tokens":true,"completion_tokens":3}': None,
    '{"prompt_tokens":[7],"completion_tokens":3}': None,
}


@pytest.mark.parametrize("text", READ)
def test_usage_is_read_where_it_can_be_billed(text: str) -> None:
    """Members left out or null count as zero, the input follows from the total; anything else is no usage."""
    assert read_usage(Raw(text.encode())) == READ[text]


def test_output_follows_from_the_total_where_it_is_left_out() -> None:
    """As the input does: what was generated is never billed as nothing when the total tells it."""
    assert read_usage(Raw(b'{"prompt_tokens":7,"total_tokens":10}')) == Usage(7, 3)


@pytest.mark.parametrize("details", ["[]", '"none"', "0", '{"cached_tokens":"5"}', '{"cached_tokens":[]}'])
@pytest.mark.parametrize("name", ["prompt_tokens_details", "completion_tokens_details"])
def test_tokens_count_though_their_details_are_of_another_shape(name: str, details: str) -> None:
    """What was used is billed even where a provider writes the details in a way of its own."""
    details = details.replace("cached", "cached" if name.startswith("prompt") else "reasoning")

    assert read_usage(Raw(f'{{"prompt_tokens":7,"completion_tokens":3,"{name}":{details}}}'.encode())) == Usage(7, 3)
