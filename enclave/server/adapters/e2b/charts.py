"""What a plot shows, as data (layer 6): this file's source runs in a Python kernel, where matplotlib may be imported later.

It is plain Python that imports nothing before there is a figure to show. Whatever does not fit the version of matplotlib that is
there is left out of the chart, and the picture comes without one.
"""

from __future__ import annotations

import math
import re
from typing import Any

MIME_TYPE = 'e2b/chart'
MAX_POINTS = 20000


def register(shell: Any) -> None:
    """Have figures shown with their data beside their picture."""
    from IPython.core.formatters import BaseFormatter

    class ChartFormatter(BaseFormatter):  # type: ignore[misc, unused-ignore]
        _return_type = dict

        # Not by a registered printer: matplotlib's backend takes those for figures out of all formatters.
        def __call__(self, shown: Any) -> dict[str, Any] | None:
            kind = type(shown)
            is_figure = (kind.__module__, kind.__name__) == ('matplotlib.figure', 'Figure')
            return chart_of(shown) if is_figure else None

    formatters = shell.display_formatter.formatters
    if MIME_TYPE not in formatters:
        formatter = formatters[MIME_TYPE] = ChartFormatter(parent=shell.display_formatter)
        formatter.format_type = MIME_TYPE


def chart_of(figure: Any) -> dict[str, Any] | None:
    """Return what a figure shows; None where nothing can take."""
    try:
        charts = [chart for axes in figure.get_axes() if (chart := chart_of_axes(axes)) is not None]
    except Exception:
        return None
    if len(charts) == 1:
        return charts[0]
    if not charts:
        return None
    title = figure._suptitle.get_text() if getattr(figure, '_suptitle', None) is not None else ''
    return {'type': 'superchart', 'title': title, 'elements': charts}


def chart_of_axes(axes: Any) -> dict[str, Any] | None:
    """Return what one pair of axes shows: slices, bars, points, boxes or lines, the first of these that there are any of."""
    wedges = [patch for patch in axes.patches if type(patch).__name__ == 'Wedge']
    if wedges:
        return pie_of(axes, wedges)
    bars = [each for each in axes.containers if type(each).__name__ == 'BarContainer']
    if bars:
        return {'type': 'bar', **labels_of(axes), 'elements': bars_of(axes, bars)}
    clouds = [each for each in axes.collections if type(each).__name__ == 'PathCollection' and len(each.get_offsets())]
    if clouds:
        found = [(each.get_label(), each.get_offsets()[:MAX_POINTS]) for each in clouds]
        return {'type': 'scatter', **labels_of(axes), **scales_of(axes), 'elements': points_of(axes, found)}
    boxes = boxes_of(axes)
    if boxes:
        return {'type': 'box_and_whisker', **labels_of(axes), 'elements': boxes}
    if axes.get_lines():
        found = [(line.get_label(), line.get_xydata()[:MAX_POINTS]) for line in axes.get_lines()]
        return {'type': 'line', **labels_of(axes), **scales_of(axes), 'elements': points_of(axes, found)}
    return None


def labels_of(axes: Any) -> dict[str, Any]:
    """Return title, names and units; a unit is what stands in parentheses at the end of a name."""
    found: dict[str, Any] = {'title': axes.get_title()}
    for name, label in (('x', axes.get_xlabel()), ('y', axes.get_ylabel())):
        unit = re.search(r'[(\[]([^()\[\]]+)[)\]]\s*$', label)
        found[name + '_label'] = label or None
        found[name + '_unit'] = unit.group(1) if unit else None
    return found


def scales_of(axes: Any) -> dict[str, Any]:
    """Return the scales, and the ticks that are in view."""
    found: dict[str, Any] = {}
    for name, axis in (('x', axes.xaxis), ('y', axes.yaxis)):
        ticks = [value for value in axis.get_ticklocs() if math.isfinite(value)]
        found[name + '_ticks'] = [value_of(axis, value) for value in ticks]
        found[name + '_tick_labels'] = [text.get_text() for text in axis.get_ticklabels()][: len(ticks)]
        kind = kind_of(axis)
        found[name + '_scale'] = kind or axis.get_scale()
    return found


def kind_of(axis: Any) -> str:
    """Return whether an axis has dates or names on it; '' for numbers."""
    get = getattr(axis, 'get_converter', None)
    name = type(get() if get is not None else getattr(axis, 'converter', None)).__name__
    return 'categorical' if 'Category' in name else 'datetime' if 'Date' in name else ''


def value_of(axis: Any, value: Any) -> Any:
    """Return a value as it is read: a date as text, a name, or a number."""
    number = float(value)
    kind = kind_of(axis)
    if kind == 'datetime':
        from matplotlib.dates import num2date  # type: ignore[import-not-found, unused-ignore]

        return num2date(number).isoformat()
    if kind == 'categorical':
        names = {place: name for name, place in axis.units._mapping.items()}
        return names.get(round(number), number)
    return number if math.isfinite(number) else None


def points_of(axes: Any, found: Any) -> list[dict[str, Any]]:
    """Return lines or clouds as their points."""
    return [
        {
            'label': str(label) if not str(label).startswith('_') else f'Line {number}',
            'points': [[value_of(axes.xaxis, x), value_of(axes.yaxis, y)] for x, y in points],
        }
        for number, (label, points) in enumerate(found)
    ]


def bars_of(axes: Any, containers: Any) -> list[dict[str, Any]]:
    """Return bars as their values, under the names at their feet; each set of bars is a group."""
    found = []
    for container in containers:
        group = str(container.get_label())
        lying = getattr(container, 'orientation', 'vertical') == 'horizontal'
        axis = axes.yaxis if lying else axes.xaxis
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels())  # noqa: B905 - the kernel's Python may be older
        names = {round(place, 6): text.get_text() for place, text in ticks}
        for patch in container.patches[:MAX_POINTS]:
            middle = patch.get_y() + patch.get_height() / 2 if lying else patch.get_x() + patch.get_width() / 2
            value = float(patch.get_width() if lying else patch.get_height())
            label = names.get(round(middle, 6)) or str(value_of(axis, middle))
            found.append({'label': label, 'value': value, 'group': '' if group.startswith('_') else group})
    return found


def boxes_of(axes: Any) -> list[dict[str, Any]]:
    """Return box plots as their numbers, left to right; nothing where there are none.

    matplotlib leaves no trace of a box plot but its lines: a closed one of 5 points, or 11 with a notch, around the quartiles, or
    a patch of that shape; one of two points across it at the median; two from its ends to the whiskers'; and one without a line
    for what lies outside.
    """
    lines = [(line.get_xydata().tolist(), line) for line in axes.get_lines()]
    shapes = [points for points, _ in lines if is_box(points)]
    for patch in axes.patches:
        if type(patch).__name__ == 'PathPatch':
            points = patch.get_path().vertices.tolist()[:-1]  # the last one closes it, and stands nowhere
            shapes += [points] if is_box(points) else []
    for flip in (False, True):
        found = [box for shape in shapes if (box := box_of(axes, turned(shape, flip), lines, flip)) is not None]
        if found and len(found) == len(shapes):
            return [box for _, box in sorted(found, key=lambda each: each[0])]
    return []


def is_box(points: Any) -> bool:
    """Return whether a line is closed and has the corners of a box."""
    return len(points) in (5, 11) and points[0] == points[-1] and len({tuple(each) for each in points}) >= 4


def turned(points: Any, flip: bool) -> Any:
    """Return points with the values' axis second: a plot may lie."""
    return [[y, x] if flip else [x, y] for x, y in points]


def box_of(axes: Any, shape: Any, lines: Any, flip: bool) -> Any:
    """Return where a box stands, and what it says; None if it is none that stands upright."""
    left, right = min(x for x, _ in shape), max(x for x, _ in shape)
    low, high = sorted((shape[0][1], shape[len(shape) // 2][1]))  # a notch may reach beyond the quartiles
    middle = (left + right) / 2
    width = abs(right - left) / 1000 + 1e-12
    ends, median, outside = [low, high], None, []
    for points, line in lines:
        points = turned(points, flip)
        level = len({y for _, y in points}) == 1
        if line.get_linestyle() in ('None', 'none', '', ' '):
            outside += [y for x, y in points if abs(x - middle) <= width]
        elif len(points) == 2 and level and left - width <= points[0][0] < middle < points[1][0] <= right + width:
            if low <= points[0][1] <= high and (median is None or abs(points[1][0] - points[0][0]) > 0):
                median = points[0][1]
        elif len(points) == 2 and all(abs(x - middle) <= width for x, _ in points):
            ends += [y for _, y in points if y <= low or y >= high]
    if median is None:
        return None
    axis = axes.yaxis if flip else axes.xaxis
    names = {round(float(at), 6): text.get_text() for at, text in zip(axis.get_ticklocs(), axis.get_ticklabels())}  # noqa: B905
    return middle, {
        'label': names.get(round(middle, 6)) or str(middle),
        'min': min(ends),
        'first_quartile': low,
        'median': median,
        'third_quartile': high,
        'max': max(ends),
        'outliers': [y for y in outside if math.isfinite(y)],
    }


def pie_of(axes: Any, wedges: Any) -> dict[str, Any]:
    """Return a pie as its slices."""
    names = [text.get_text() for text in axes.texts]
    step = 2 if len(names) == 2 * len(wedges) else 1  # with the shares between the names
    found = [
        {
            'label': names[number * step] if number * step < len(names) else '',
            'angle': float(wedge.theta2 - wedge.theta1),
            'radius': float(wedge.r),
        }
        for number, wedge in enumerate(wedges)
    ]
    return {'type': 'pie', 'title': axes.get_title(), 'elements': found}
