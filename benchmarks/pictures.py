"""Pictures of results: small SVG, drawn from the figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _LEFT, _RIGHT, _LINE = 860, 300, 150, 22
_INK, _PALE, _OURS, _OTHER, _MISSED = "#1f2933", "#9aa5b1", "#0b7285", "#adb5bd", "#c92a2a"
_FONT = 'font-family="system-ui, sans-serif" font-size="13"'


def bars(found: Sequence[Mapping[str, Any]]) -> str:
    """Every bar as its ratio relative to what is required: the line is the requirement."""
    left, room = 470, _WIDTH - 470 - 120
    parts, y = [_text(16, 24, "ratio to the required one (the line)", weight="bold")], 48
    for bar in found:
        share = bar["ratio"] / bar["required"]
        width = min(share, 3.0) / 3.0 * room
        colour = _OURS if bar["holds"] else _MISSED
        parts.append(_text(left - 8, y + 14, bar["name"], anchor="end"))
        parts.append(_rect(left, y + 3, width, _LINE - 8, colour))
        label = f"{bar['ratio']:.2f} of {bar['required']:g}" + (" →" if share > 3 else "")
        parts.append(_text(left + width + 6, y + 14, label))
        y += _LINE
    line = left + room / 3
    parts.append(
        f'<line x1="{line:.1f}" y1="40" x2="{line:.1f}" y2="{y + 4}" stroke="{_INK}" '
        'stroke-dasharray="4 3"/>'
    )
    return _svg(y + 16, parts)


def figures(found: Sequence[Mapping[str, Any]], notes: Mapping[str, str]) -> str:
    """A bar chart for each figure: median, with a whisker from the least to the greatest."""
    parts: list[str] = []
    y = 10
    for name in dict.fromkeys(one["name"] for one in found):
        group = [one for one in found if one["name"] == name]
        parts.append(_text(16, y + 16, f"{name}, {group[0]['unit']}", weight="bold"))
        y += _LINE + 4
        most = max(one["max"] for one in group) or 1
        for one in sorted(group, key=lambda item: -item["median"]):
            y = _figure(parts, one, most, y)
        if notes.get(name):
            parts.append(_text(16, y + 13, notes[name], colour=_PALE))
            y += _LINE
        y += 10
    return _svg(y, parts)


def _figure(parts: list[str], one: Mapping[str, Any], most: float, y: int) -> int:
    room = _WIDTH - _LEFT - _RIGHT
    at = {key: _LEFT + one[key] / most * room for key in ("median", "min", "max")}
    ours = one["subject"].startswith("postroad")
    parts.append(_text(_LEFT - 8, y + 14, one["subject"], anchor="end"))
    parts.append(_rect(_LEFT, y + 3, at["median"] - _LEFT, _LINE - 8, _OURS if ours else _OTHER))
    parts.append(
        f'<line x1="{at["min"]:.1f}" y1="{y + 10}" x2="{at["max"]:.1f}" y2="{y + 10}" '
        f'stroke="{_INK}" stroke-width="1.5"/>'
    )
    value = one["median"]
    label = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    parts.append(_text(at["max"] + 6, y + 14, label))
    return y + _LINE


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    width = max(width, 1)
    return f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{height}" fill="{colour}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = _INK,
    weight: str = "normal",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}" fill="{colour}" '
        f'font-weight="{weight}">{escape(text)}</text>'
    )


def _svg(height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" {_FONT}>'
    )
    ground = f'<rect width="{_WIDTH}" height="{height:.0f}" fill="#ffffff"/>'
    return "\n".join([head, ground, *parts, "</svg>"]) + "\n"
