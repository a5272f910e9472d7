"""Language models of providers, for whoever asks one: the client, and what its errors may say."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from auditor.errors import ProviderError, SpecError
from tools.quoting import one_line

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage

TIMEOUT_S = 120.0
RETRIES = 2
MAX_PROBLEM = 400
REFUSALS = (400, 422)
_SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_SECRET_SHAPES = re.compile(r"\bsk-[\w*-]+|(?<=Bearer )[^\s'\"]+|(?<=://)[^/@\s]+(?=@)")


class Caller:
    """Asks a chat model for function calls; an option that its server refuses by name is left out from then on.

    Attributes:
        usage: Tokens of the requests since it was last set to None, `input_tokens` and `output_tokens`; None where the
            server reports none.
    """

    def __init__(self, model: str, who: str) -> None:
        """Set up the client, see `chat_model`; nothing is sent."""
        self.model = model
        self.usage: dict[str, int] | None = None
        self._chat = chat_model(model, who)
        self._options: dict[str, Any] = {"tool_choice": "any"}
        if model.startswith("openai:"):
            self._options["parallel_tool_calls"] = False

    def ask(self, messages: list[tuple[str, str]], functions: list[dict[str, Any]]) -> AIMessage:
        """Return the reply.

        Raises:
            ProviderError: the model can't be reached, or its server refuses or garbles the exchange.
        """
        while True:
            try:
                reply = self._chat.bind_tools(functions, **self._options).invoke(messages)
                break
            except Exception as error:
                refused = next((name for name in self._options if name in str(error)), None)
                if refused is None or getattr(error, "status_code", None) not in REFUSALS:
                    raise ProviderError(f"{self.model} could not be asked: {problem_of(error)}") from error
                del self._options[refused]
        if reply.usage_metadata is not None:
            used, usage = self.usage or {}, reply.usage_metadata
            self.usage = {
                "input_tokens": used.get("input_tokens", 0) + usage["input_tokens"],
                "output_tokens": used.get("output_tokens", 0) + usage["output_tokens"],
            }
        return reply


def function_of(name: str, description: str, model: type[BaseModel]) -> dict[str, Any]:
    """Return a function that a model may call, with the fields of a pydantic model for its arguments."""
    from langchain_core.utils.function_calling import convert_to_openai_tool

    parameters = convert_to_openai_tool(model)["function"]["parameters"]
    if "const" in parameters["properties"].get("kind", {}):
        del parameters["properties"]["kind"]
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def chat_model(model: str, who: str, **options: Any) -> BaseChatModel:
    """Return langchain's client for PROVIDER:NAME, at temperature 0; nothing is sent.

    With `openai` the endpoint is OPENAI_BASE_URL where that is set, which then needs no key.

    Args:
        model: PROVIDER:NAME as langchain's `init_chat_model` reads it.
        who: Who asks it, as errors say it.
        options: Further settings of the client.

    Raises:
        SpecError: the name has no provider, a package is missing, or the provider lacks its key.
    """
    provider, _, name = model.partition(":")
    if not provider or not name:
        raise SpecError(f"{who} needs a model as PROVIDER:NAME, e.g. openai:gpt-5.2; got {one_line(model)!r}")
    if provider == "openai" and os.environ.get("OPENAI_BASE_URL") and not os.environ.get("OPENAI_API_KEY"):
        options["api_key"] = "none"
    try:
        from langchain.chat_models import init_chat_model

        chat: BaseChatModel = init_chat_model(
            name, model_provider=provider, temperature=0, timeout=TIMEOUT_S, max_retries=RETRIES, **options
        )
    except ImportError as error:
        raise SpecError(f"{who} lacks a package: pip install 'auditor[llm]' ({error})") from error
    except Exception as error:
        hide_secrets(error)
        raise SpecError(f"no chat model {model!r}: {one_line(str(error), MAX_PROBLEM)}") from error
    return chat


def problem_of(error: BaseException) -> str:
    """Return what went wrong in one line, with the error behind it, without secrets."""
    hide_secrets(error)
    root = _chain(error)[-1]
    behind = "" if root is error else f" ({root})"
    return one_line(f"{type(error).__name__}: {error}{behind}", MAX_PROBLEM)


def hide_secrets(error: BaseException) -> None:
    """Blank API keys in the texts of an error and of all those behind it, since servers echo what they were sent."""
    for one in _chain(error):
        one.args = tuple(_without(part) for part in one.args)


def without_secrets(text: str) -> str:
    """Return a text with API keys blanked: those of the environment, and what has the shape of one."""
    values = [v for k, v in os.environ.items() if _SECRET_NAMES.search(k) and len(v) >= 8]
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "[redacted]")
    return _SECRET_SHAPES.sub("[redacted]", text)


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and those behind it, as a traceback shows them."""
    chain = [error]
    while (behind := chain[-1].__cause__ or chain[-1].__context__) is not None and behind not in chain:
        chain.append(behind)
    return chain


def _without(part: Any) -> Any:
    text = part if isinstance(part, str) else repr(part)
    clean = without_secrets(text)
    return part if clean == text else clean
