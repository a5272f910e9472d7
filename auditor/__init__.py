"""An auditing agent for language models."""

from auditor.audit import audit, resume
from auditor.config import AuditResult, AuditSpec

__all__ = ["AuditResult", "AuditSpec", "audit", "resume"]
