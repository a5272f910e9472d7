"""The append-only record of every audit: what was done, read, registered, drawn and found."""

from auditor.ledger.chain import Verification
from auditor.ledger.ledger import Ledger

__all__ = ["Ledger", "Verification"]
