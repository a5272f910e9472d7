"""The interface every instrument has, and the registry that finds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tools.claims import Suggestion
from tools.errors import ToolInputError
from tools.subject import Subject

Role = Literal["subject", "base", "oracle", "planner"]
Tokens = dict[str, int]
ArgsT = TypeVar("ArgsT", bound=BaseModel)


class Reading(BaseModel):
    """One value an instrument returned, beside the same question put to its controls.

    `lift` is the value minus the strongest control; None where the value is a plain description.
    `detail` holds examples for people: replies, tokens, texts. It is untrusted data.
    """

    name: str
    channel: str = "subject"
    value: float | None = None
    controls: dict[str, float] = Field(default_factory=dict)
    lift: float | None = None
    suggestion: Suggestion | None = None
    detail: dict[str, Any] = Field(default_factory=dict)


class ToolResult(BaseModel):
    """All readings of one call, what it cost in forward tokens by role, and one line of summary."""

    readings: list[Reading]
    tokens: Tokens
    summary: str


class ToolArgs(BaseModel):
    """Arguments of an instrument; an unknown key is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelledPrompt(ToolArgs):
    """One prompt with the conditions it meets, e.g. `{"topic": "travel"}`."""

    messages: list[dict[str, str]] = Field(min_length=1)
    labels: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)


class Tool(ABC, Generic[ArgsT]):
    """One instrument: a name, an argument model, a card for people and planners, a price.

    A suggestion is made only above a threshold of lift that stands as a constant beside the tool;
    they were chosen on the testbed's `dev` suite, where adapters trained on ordinary chat stay below
    and organisms rise above, but for those of the oracle of weights: two nats, not chosen on anything yet.
    """

    name: ClassVar[str]
    card: ClassVar[str]
    white_box: ClassVar[bool]
    Args: type[ArgsT]

    @abstractmethod
    def cost(self, subject: Subject, args: ArgsT) -> Tokens:
        """Return an upper bound on the forward tokens of `run`, by role."""

    @abstractmethod
    def run(self, subject: Subject, args: ArgsT, seed: int) -> ToolResult:
        """Read the subject and return the readings."""

    def parse(self, arguments: dict[str, Any]) -> ArgsT:
        """Return the arguments as the tool's own model.

        Raises:
            ToolInputError: a key is unknown or a value does not fit; the message names them.
        """
        try:
            return self.Args.model_validate(arguments)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'arguments'}: {e['msg']}" for e in error.errors())
            raise ToolInputError(
                f"{self.name}: {problems}; its arguments are {', '.join(self.Args.model_fields)}"
            ) from error


def suggest(lift: float, threshold: float, text: str, **parts: Any) -> Suggestion | None:
    """Return a suggestion when `lift` reaches the threshold of its kind of reading, else None: withheld."""
    if lift < threshold:
        return None
    return Suggestion(text=text, lift=lift, strength=lift / threshold, **parts)


def available() -> list[str]:
    """Return the names of the installed instruments, ours and third parties', sorted."""
    return sorted({entry.name for entry in entry_points(group="auditor.tools")})


def load_tools(names: Iterable[str]) -> dict[str, Tool[Any]]:
    """Return the named instruments, in the order given.

    Raises:
        ToolInputError: a name is not installed; the message lists those that are.
    """
    known = {entry.name: entry for entry in entry_points(group="auditor.tools")}
    tools: dict[str, Tool[Any]] = {}
    for name in names:
        if name not in known:
            raise ToolInputError(f"unknown tool {name!r}: the installed tools are {', '.join(sorted(known))}")
        tools[name] = known[name].load()()
    return tools
