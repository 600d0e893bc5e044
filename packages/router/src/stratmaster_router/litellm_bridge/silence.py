"""LiteLLM, set up to keep quiet: it reports nothing to anybody, writes no line, and asks nobody for prices.

Whoever imports this module imports LiteLLM; `OFFLINE` must be in the environment by then.
"""

import logging
import warnings
from datetime import UTC, datetime
from typing import Any

import litellm
from litellm.litellm_core_utils.litellm_logging import Logging


def quieten() -> None:
    """Let LiteLLM and what it calls log and print nothing: their lines, and pydantic's warnings, can hold messages."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(lambda record: record.name.startswith(("stratmaster_router", "uvicorn")))
    for name in ("LiteLLM", "LiteLLM Proxy", "LiteLLM Router"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    litellm.turn_off_message_logging = True
    litellm.num_retries = 0
    litellm.disable_streaming_logging = True


class Silence(Logging):  # type: ignore[misc]  # LiteLLM is not in the environment that is type-checked
    """The record that LiteLLM keeps of a call, kept from recording.

    Beside sending nothing anywhere, this saves a quarter of a call's CPU time: costs, and copies for callbacks.
    """

    def __init__(self, model: str, call_type: str, *, stream: bool, stream_options: Any = None) -> None:
        super().__init__(
            model=model,
            messages=None,
            stream=stream,
            call_type=call_type,
            start_time=datetime.now(UTC),
            litellm_call_id="",
            litellm_trace_id="-",
            function_id="",
        )
        self.stream_options = stream_options  # here LiteLLM's streams look whether the usage is wanted

    def response_cost_calculator(self, *_: Any, **__: Any) -> None:
        """No cost: the router prices what was used."""

    _response_cost_calculator = response_cost_calculator

    async def _response_cost_calculator_async(self, *_: Any, **__: Any) -> None: ...

    def claim_async_success_log(self) -> bool:
        """Never to be logged."""
        return False

    def pre_call(self, *_: Any, **__: Any) -> None:
        """Nothing is recorded."""

    post_call = success_handler = failure_handler = handle_sync_success_callbacks_for_async_calls = pre_call

    async def async_success_handler(self, *_: Any, **__: Any) -> None:
        """Nothing is recorded."""

    async_failure_handler = dispatch_success_handlers = dispatch_failure_handlers = async_success_handler
