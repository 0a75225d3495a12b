"""The charts' geometry, against points worked out by hand."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from qntz.report.charts import Bar, Point, Series, decades, error_chart, line_chart, linear_ticks, style_of


def drawn(series: list[Series], width: int = 516) -> ET.Element:
    text = line_chart(series, key="k", width=width, title="SQNR", x_label="layer", y_label="dB")
    return ET.fromstring(text)


def kinds(svg: ET.Element, tag: str, kind: str) -> list[ET.Element]:
    return [element for element in svg.iter(tag) if kind in element.get("class", "").split()]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (10, 40, [10, 20, 30, 40]),
        (18.5, 41.25, [15, 20, 25, 30, 35, 40, 45]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 12, [-5, 0, 5, 10, 15]),
        (7, 7, [6, 6.5, 7, 7.5, 8]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low, high, expected):
    assert linear_ticks(low, high) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3e-7, 2e-2], (-7, -1)),
        ([1e-6, 1e-4], (-7, -4)),  # a value on a power of ten keeps a bar with a length
        ([0.0, 5e-3], (-3, -2)),
        ([0.0], (-7, 0)),
        ([], (-7, 0)),
    ],
)
def test_the_decades_enclose_the_positive_values(values, expected):
    assert decades(values) == expected


def test_a_line_goes_through_the_points_worked_out_by_hand():
    # 516 wide: from x = 52 to 502, 150 a step; from y = 256 (10 dB) up to 14 (40 dB), 242 / 30 a dB
    svg = drawn([Series("int8", (Point(0, 10), Point(1, 30), Point(2, 20), Point(3, 40)))])
    (line,) = kinds(svg, "polyline", "line")
    assert line.get("points") == "52,256 202,94.7 352,175.3 502,14"
    dots = kinds(svg, "circle", "dot")
    assert [(dot.get("cx"), dot.get("cy")) for dot in dots] == [
        ("52", "256"), ("202", "94.7"), ("352", "175.3"), ("502", "14"),
    ]  # fmt: skip
    assert [text.text for text in kinds(svg, "text", "tick")] == ["10", "20", "30", "40", "0", "1", "2", "3"]


def test_what_was_not_measured_leaves_a_gap_and_the_infinite_stands_on_an_edge():
    points = (Point(0, 10), Point(1, None), Point(2, 20), Point(3, math.inf), Point(4, -math.inf), Point(5, 40))
    svg = drawn([Series("int8", points)])
    assert not kinds(svg, "polyline", "line")  # each finite point stands alone
    assert [dot.get("cx") for dot in kinds(svg, "circle", "dot")] == ["52", "232", "502"]
    # 40 dB stands 24 below the row "exact", 10 dB 24 above the axis, in the middle of which is the row "broken"
    assert [dot.get("cy") for dot in kinds(svg, "circle", "dot")] == ["232", "167.3", "38"]
    edges = kinds(svg, "circle", "edge")
    assert [(edge.get("cx"), edge.get("cy"), edge[0].text) for edge in edges] == [
        ("322", "14", "int8, 3 : exact"),
        ("412", "244", "int8, 4 : broken"),
    ]
    labels = {text.text: text.get("y") for text in kinds(svg, "text", "tick") if text.get("text-anchor") == "end"}
    assert labels == {"10": "236", "20": "171.3", "30": "106.7", "40": "42", "exact": "18", "broken": "248"}


def test_where_every_tensor_is_exact_no_figure_stands_at_the_axis():
    svg = drawn([Series("fp32", (Point(0, math.inf), Point(1, math.inf)))])
    assert [text.text for text in kinds(svg, "text", "tick")] == ["exact", "0", "1"]
    assert {edge.get("cy") for edge in kinds(svg, "circle", "edge")} == {"14"}


def test_a_chart_of_one_layer_puts_it_in_the_middle():
    svg = drawn([Series("int8", (Point(7, 12.0),))])
    assert kinds(svg, "circle", "dot")[0].get("cx") == "277"


def test_a_long_line_is_thin_and_has_no_dots():
    svg = drawn([Series("int8", tuple(Point(x, 20 + x % 3) for x in range(61)))])
    assert len(kinds(svg, "polyline", "thin")) == 1
    assert not kinds(svg, "circle", "dot")


def test_a_point_alone_on_a_long_line_is_seen():
    svg = drawn([Series("int8", (*(Point(x, 20) for x in range(60)), Point(60, None), Point(61, 25)))])
    assert [dot.get("cx") for dot in kinds(svg, "circle", "dot")] == ["502"]


def test_the_description_names_each_line_and_its_lowest_point():
    svg = drawn([Series("a", (Point(0, 30, "x"), Point(1, 20, "y"))), Series("b", ())])
    assert svg.get("role") == "img"
    assert svg.get("aria-labelledby") == "k-title k-desc"
    assert {element.get("id"): element.text for element in svg[:2]} == {
        "k-title": "SQNR",
        "k-desc": "a: 2 points, lowest 20.0 at 1 y; b: no finite point",
    }


def test_names_are_escaped():
    text = line_chart(
        [Series("<b>", (Point(0, 1, "<script>x</script>"),))], key="k", width=400, title="t", x_label="x", y_label="y"
    )
    assert "<script>" not in text
    assert "&lt;script&gt;x&lt;/script&gt;" in text


def test_twelve_lines_look_different():
    assert len({style_of(place) for place in range(12)}) == 12


def bars(*given: Bar) -> ET.Element:
    return ET.fromstring(error_chart(given, key="e", width=400, title="errors", x_label="x"))


def test_a_bar_ends_at_its_error_on_the_logarithmic_axis():
    # "ab" takes 2 * 7 + 12 = 26; the axis ends at 400 - 74 = 326; three decades from 1e-7 to 1e-4, 100 each
    svg = bars(Bar("ab", 1e-6, 1e-4))
    (bar,) = kinds(svg, "rect", "bar")
    assert (bar.get("x"), bar.get("width")) == ("26", "100")
    (limit,) = kinds(svg, "line", "limit")
    assert limit.get("x1") == limit.get("x2") == "326"
    assert [text.text for text in kinds(svg, "text", "tick")] == ["1e-7", "1e-6", "1e-5", "1e-4"]


def test_no_error_and_none_measured_have_no_bar_but_words():
    svg = bars(Bar("a", 0.0), Bar("b", None, note="not measured"), Bar("c", 2e-3, hollow=True))
    assert [text.text for text in kinds(svg, "text", "value")] == ["0", "2e-3"]
    assert [text.text for text in kinds(svg, "text", "absent")] == ["not measured"]
    assert len(kinds(svg, "rect", "bar")) == len(kinds(svg, "rect", "hollow")) == 1
    assert svg[1].text == "a: 0; b: not measured; c: 2e-3"


def test_a_long_name_keeps_its_end():
    svg = bars(Bar("vit_large_patch16_224_something_long-int8", 1e-3))
    (name,) = kinds(svg, "text", "name")
    assert name.text == "vit_larg…thing_long-int8"  # 24 characters of 7 fit into 180 - 12: 8, the ellipsis, 15
