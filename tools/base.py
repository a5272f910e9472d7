"""The interface every instrument has, and the registry that finds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from tools.claims.suggestion import Suggestion
from tools.errors import ToolInputError
from tools.prompt import LabelledPrompt, ToolArgs
from tools.questions import Known, Look, Questions, dumped
from tools.subject import Subject

__all__ = ["Known", "LabelledPrompt", "Look", "Questions", "Reading", "Tool", "ToolArgs", "ToolResult", "suggest"]

Role = Literal["subject", "base", "oracle", "planner", "judge"]
Tokens = dict[str, int]
ArgsT = TypeVar("ArgsT", bound=BaseModel)


class Reading(BaseModel):
    """One value an instrument returned, beside the same question put to its controls.

    `lift` is the value minus the strongest control; None where the value is a plain description.
    `detail` holds examples for people: replies, tokens, texts. It is untrusted data. Two of its keys are
    read by other instruments, see `Known`: `top` ranks words, `labels` are the conditions of one prompt.
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


class Tool(ABC, Generic[ArgsT]):
    """One instrument: a name, an argument model, a card for people and planners, a price, and when it is of use.

    A suggestion is made only above a threshold of lift that stands as a constant beside the tool;
    they were chosen on the testbed's `dev` suite, where adapters trained on ordinary chat stay below
    and organisms rise above, but for those of the oracle of weights: two nats, not chosen on anything yet.
    """

    name: ClassVar[str]
    card: ClassVar[str]
    white_box: ClassVar[bool]
    reads_files: ClassVar[bool] = False
    """Whether it reads the files beside the weights, so that it is of use where subject and base have the same weights."""
    gain: ClassVar[float | None] = None
    """Share of planted behaviours that its own best suggestion names: `by_tool` of a bench on `english_dev`; None where unmeasured."""
    reads_given: ClassVar[bool] = False
    """Whether it reads what the user gave: it looks first, what it suggests is tested first, and no planner makes up its arguments."""
    sized_by: ClassVar[str] = ""
    """The list argument that can be cut to make a call cheaper; none where nothing can be."""
    floor: ClassVar[int] = 8
    """The least length of that list that is still worth a call."""
    Args: type[ArgsT]

    @abstractmethod
    def cost(self, subject: Subject, args: ArgsT) -> Tokens:
        """Return an upper bound on the forward tokens of `run`, by role."""

    def memory(self, subject: Subject, args: ArgsT) -> int:
        """Return an upper bound on the bytes that `run` holds beside the weights and one batch; 0 where it is little."""
        return 0

    def survey(self, asked: Questions) -> dict[str, Any] | None:
        """Return the arguments of a cheap look at the whole subject; None where there is no such look.

        By default those that an audit can fill by their names: `prompts`, `words`, `observables`. An
        instrument that needs anything else is not surveyed unless it says how.
        """
        fields = self.Args.model_fields
        needed = {name for name, one in fields.items() if one.is_required()}
        if not needed <= {"prompts", "words", "observables"} or not {"prompts", "words"} & set(fields):
            return None
        known: dict[str, Any] = {"words": asked.values("word"), "observables": asked.observables}
        if "prompts" in fields:
            known["prompts"] = dumped(asked.survey(per_topic=4))
        return {name: value for name, value in known.items() if name in fields}

    def follow_up(self, asked: Questions, known: Known, done: Sequence[dict[str, Any]]) -> Iterator[Look]:
        """Yield the closer looks that what is known calls for, best first; by default none.

        Args:
            asked: What the audit can ask.
            known: What all instruments have said.
            done: The arguments of the calls that this instrument has had.
        """
        yield from ()

    def fit(self, subject: Subject, args: ArgsT, tokens: int, memory: int) -> tuple[ArgsT, str] | None:
        """Return arguments that cost no more, and what was cut in words (empty where nothing was); None below the floor.

        What is left of a list is spread evenly over it.

        Args:
            subject: What is read.
            args: The whole call.
            tokens: Forward tokens that it may cost.
            memory: Bytes that it may hold.
        """

        def fits(some: ArgsT) -> bool:
            return sum(self.cost(subject, some).values()) <= tokens and self.memory(subject, some) <= memory

        if fits(args):
            return args, ""
        whole = self.items(subject, args)
        low, high = self.floor - 1, len(whole)
        if not self.sized_by or high < self.floor or not fits(self.cut(args, whole, self.floor)):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(self.cut(args, whole, middle)) else (low, middle)
        return self.cut(args, whole, low), f"{low:,} of {len(whole):,} {self.sized_by}"

    def items(self, subject: Subject, args: ArgsT) -> list[Any]:
        """Return the list that a call can be cut by, as it would be read."""
        return list(getattr(args, self.sized_by)) if self.sized_by else []

    def cut(self, args: ArgsT, whole: Sequence[Any], n: int) -> ArgsT:
        """Return the arguments with `n` items of the list they are sized by."""
        some = [whole[i * len(whole) // n] for i in range(n)]
        return args.model_copy(update={self.sized_by: some})

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
