"""What can be said about a subject: when (conditions), what (predicates), how bad (concern), and who decides.

`claim` puts the parts together; `catalogue` names families; `sameness` says whether two claims are one; `older` reads
what earlier versions wrote. A kind is a class in a file of `conditions/` or `predicates/` and a line in a registry.
"""
