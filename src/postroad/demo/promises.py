"""`explain` over all groups at once: what several of them are promised is said once."""

from collections.abc import Sequence

from rich.table import Table

from postroad import Contract, Term
from postroad.demo.topics import GROUPS


def promises(contracts: Sequence[Contract], table: Table) -> Table:
    """Fill a table: who is promised what, who keeps it, and how."""
    table.add_column("for", max_width=19)
    table.add_column("promise")
    table.add_column("kept by", no_wrap=True)
    table.add_column("how")
    for term, names in _merged(contracts):
        table.add_row(_several(names), _promise(term), term.keeper, term.detail)
    return table


def _merged(contracts: Sequence[Contract]) -> Sequence[tuple[Term, Sequence[str]]]:
    """Equal terms with the names of those who have them, subject by subject."""
    found: dict[tuple[str, str, str], tuple[Term, list[str]]] = {}
    for contract in contracts:
        for term in contract.terms:
            place = (term.subject, _promise(term), term.detail)
            found.setdefault(place, (term, []))[1].append(contract.subject.split(" → ")[-1])
    subjects = [subject for subject, _, _ in found]
    return [found[place] for place in sorted(found, key=lambda place: subjects.index(place[0]))]


def _promise(term: Term) -> str:
    # A group's own name says nothing beside the names of those whom it concerns.
    return term.subject if term.subject == "group" else f"{term.subject}: {term.asked}"


def _several(names: Sequence[str]) -> str:
    return "every group" if set(names) == set(GROUPS) else ", ".join(names)
