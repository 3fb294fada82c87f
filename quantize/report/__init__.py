"""The report of a compression or a comparison: ``report.json`` for machines, ``index.html`` for people.

Needs matplotlib, which the extra ``report`` brings.
"""

from pyengine.quantize.report.data import (
    CalibrationText,
    Change,
    ChangedLine,
    CompressionReport,
    EndToEnd,
    Histogram,
    InputRanges,
    Layer,
    Outlier,
    ParetoPoint,
    Pruned,
    Speed,
    States,
    StaticRange,
)
from pyengine.quantize.report.plots import require_matplotlib
from pyengine.quantize.report.writer import check_report_target, write_report

__all__ = [
    "CalibrationText",
    "Change",
    "ChangedLine",
    "CompressionReport",
    "EndToEnd",
    "Histogram",
    "InputRanges",
    "Layer",
    "Outlier",
    "ParetoPoint",
    "Pruned",
    "Speed",
    "States",
    "StaticRange",
    "check_report_target",
    "require_matplotlib",
    "write_report",
]
