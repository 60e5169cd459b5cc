"""What an expression of Prometheus asks for, and which labels come of it, as a parser of the language reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import promql_parser
from promql_parser import (
    AggModifierType,
    AggregateExpr,
    BinaryExpr,
    Call,
    LabelModifierType,
    MatrixSelector,
    NumberLiteral,
    StringLiteral,
    VectorMatchCardinality,
    VectorSelector,
)

Series = Mapping[str, Set[str]]
"""The labels of each series."""


class NoSuchLabel(Exception):
    """A label that the series it is asked of does not have."""


def selectors(expression: str) -> list[VectorSelector]:
    """Each series that is read.

    Raises:
        ValueError: not an expression, an unknown function, or one that takes another type.
    """
    found: list[VectorSelector] = []

    def visit(part: Any) -> None:
        if isinstance(part, VectorSelector):
            found.append(part)

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def labels_of(expression: str, series: Series) -> set[str]:
    """The labels of the result.

    Raises:
        ValueError: as :func:`selectors`.
        KeyError: a series that nobody serves.
        NoSuchLabel: a label that is not there where it is matched or grouped, or two sides that can never match.
    """
    return _labels(promql_parser.parse(expression), series) or set()


def _labels(part: Any, series: Series) -> set[str] | None:
    """None for a number."""
    if isinstance(part, NumberLiteral | StringLiteral):
        return None
    if isinstance(part, VectorSelector):
        known = set(series[part.name])
        _require((matcher.name for matcher in part.matchers.matchers), known, part.name)
        return known
    if isinstance(part, MatrixSelector):
        return _labels(part.vector_selector, series)
    if isinstance(part, AggregateExpr):
        inner = _labels(part.expr, series) or set()
        if part.modifier is None:
            return set()
        given = set(part.modifier.labels)
        _require(given, inner, part.prettify())
        return given if part.modifier.type == AggModifierType.By else inner - given
    if isinstance(part, Call):
        given = [labels for labels in (_labels(argument, series) for argument in part.args) if labels is not None]
        if not given:
            return None
        return given[0] - ({"le"} if part.func.name == "histogram_quantile" else set())
    if isinstance(part, BinaryExpr):
        return _of_both(part, _labels(part.lhs, series), _labels(part.rhs, series))
    return _labels(part.expr, series)


def _of_both(part: BinaryExpr, left: set[str] | None, right: set[str] | None) -> set[str] | None:
    if left is None or right is None:
        return right if left is None else left
    matching = part.modifier.matching if part.modifier is not None else None
    if matching is not None and matching.type == LabelModifierType.Include:
        _require(matching.labels, left & right, part.prettify())
        common = set(matching.labels)
    else:
        apart = set(matching.labels) if matching is not None else set()
        _require((left ^ right) - apart, set(), part.prettify())
        common = left - apart
    if part.modifier is None or part.modifier.card == VectorMatchCardinality.OneToOne:
        return common
    # and, or, unless, and what is matched to many, keep the left side
    return left | set(part.modifier.group_labels or ())


def _require(labels: Iterator[str] | Set[str] | list[str], known: Set[str], where: str) -> None:
    if unknown := set(labels) - known:
        raise NoSuchLabel(f"{', '.join(sorted(unknown))} in {where}")
