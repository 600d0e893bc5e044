import json
from urllib.request import Request, urlopen

from openai import OpenAI
from support.servers import ACME_KEY, Mock, RunningRouter


def test_chat_answers_with_the_bytes_of_the_upstream(router: RunningRouter, mock: Mock) -> None:
    """A whole answer reaches the client byte for byte, and only the model of the request is changed."""
    body = b'{ "messages":[{"role":"user","content":"caf\\u00e9 \xc3\xa9"}] ,"model" : "reasoning", "x_unknown":[1, 2]}'
    headers = {"Authorization": f"Bearer {ACME_KEY}", "X-Tenant-ID": "acme", "Content-Type": "application/json"}

    with urlopen(Request(f"{router.url}/v1/chat/completions", body, headers)) as response:
        answer = json.loads(response.read())

    assert answer["choices"][0]["message"]["content"] == "echo: café é"
    assert [request["body"].encode() for request in mock.requests()] == [body.replace(b"reasoning", b"gpt-4.1")]


def test_openai_client_gets_an_answer(router: RunningRouter) -> None:
    """The official client asks for a task and gets a message, with the model that policy chose in the headers."""
    with OpenAI(base_url=f"{router.url}/v1", api_key=ACME_KEY, default_headers={"X-Tenant-ID": "acme"}) as client:
        raw = client.chat.completions.with_raw_response.create(
            model="reasoning", messages=[{"role": "user", "content": "one two three"}]
        )

    assert raw.parse().choices[0].message.content == "echo: one two three"
    assert (raw.headers["x-router-provider"], raw.headers["x-router-model"], raw.headers["x-router-task"]) == (
        "first",
        "gpt-4.1",
        "reasoning",
    )
