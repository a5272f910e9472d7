"""How likely it is that something was planted, learned from audits whose subjects are known, and judged on others."""
