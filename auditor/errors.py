"""Errors of the auditor's own boundaries; those of models and instruments are in `tools.errors`."""

from __future__ import annotations

from tools.errors import AuditorError


class SpecError(AuditorError):
    """A scenario or an audit's specification asks for something that does not exist."""


class LedgerError(AuditorError):
    """The ledger file can't be opened, written or understood."""


class BudgetError(AuditorError):
    """A call would spend more forward tokens than the audit has left."""


class ProviderError(AuditorError):
    """A language model behind a planner failed or answered nothing usable."""

    exit_code = 1


class FetchError(AuditorError):
    """What a command was to bring from elsewhere is not here: no network, no room, or not what was expected."""

    exit_code = 5


class Interrupted(KeyboardInterrupt):
    """Somebody stopped an audit under way; `audit_id` is what `auditor resume` takes."""

    def __init__(self, audit_id: str) -> None:
        super().__init__(audit_id)
        self.audit_id = audit_id
