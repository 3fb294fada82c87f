"""The page for people: one file, which needs no other, no script and no network."""

from __future__ import annotations

from pyengine.quantize.report import plots, tables
from pyengine.quantize.report.data import CompressionReport
from pyengine.quantize.report.markup import Markup, join, tag
from pyengine.quantize.report.style import CSS
from pyengine.quantize.report.wording import wording
from pyengine.quantize.report.words import decibels, significant, verdict

__all__ = ["page"]

_HISTOGRAMS = 24  # of more layers, those with the lowest SNR are shown

# Nothing in the page asks for anything from elsewhere; the browser is told to refuse if it did.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(report: CompressionReport) -> str:
    """The HTML of a report, the same for equal reports."""
    words = wording(report)
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", words.title),
        tag("style", Markup(CSS)),
    )
    parts = [
        tag("h1", words.title),
        tag("p", " ".join(verdict(report)), class_="verdict"),
        *_models(report),
        *_notes(report),
        *_sizes(report),
        *_quality(report),
        *_speed(report),
        *_layers(report),
        *_inputs(report),
        *_outliers(report),
        *_histograms(report),
        *_pruned(report),
        *_pareto(report),
        *_origin(report),
    ]
    body = tag("body", tag("main", *(join(part, Markup("\n")) for part in parts)))
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _section(title: str, *sentences: str) -> list[Markup]:
    return [tag("h2", title), tag("p", " ".join(sentences), class_="why")]


def _plots(*pairs: tuple[Markup | None, str], kind: str = "plots") -> list[Markup]:
    """Plots with their captions, side by side where there is room; those that are None are left out."""
    shown = [(plot, caption) for plot, caption in pairs if plot is not None]
    figures = [tag("figure", plot, *([tag("figcaption", caption)] if caption else [])) for plot, caption in shown]
    return [tag("div", *figures, class_=kind)] if figures else []


def _models(report: CompressionReport) -> list[Markup]:
    if not report.models:
        return []
    a, b = (tag("code", name) for name in report.models)
    return [tag("p", "A is ", a, ", B is ", b, ".")]


def _notes(report: CompressionReport) -> list[Markup]:
    if not report.notes:
        return []
    return [tag("aside", tag("ul", *(tag("li", note) for note in report.notes)), aria_label="Notes")]


def _sizes(report: CompressionReport) -> list[Markup]:
    return [*_section("Size", wording(report).sizes), tables.sizes_table(report)]


def _quality(report: CompressionReport) -> list[Markup]:
    found, words = report.end_to_end, wording(report)
    if report.states:
        return [*_section("Quality", words.quality), tables.states_table(report.states, words)]
    if not found:
        return []
    parts = [*_section("Quality", words.quality), tables.quality_table(found, words)]
    if found.kl_quantiles:
        half, rare, most = (significant(found.kl_quantiles[place]) for place in (50, 99, 100))
        caption = f"Half of the tokens move by {half} nats at most, 99 % by {rare}, and all by {most}."
        parts += _plots((plots.divergence_plot(found.kl_quantiles), caption))
    if found.lines:
        explained = "Sentences whose tokens move most, in the mean over each: look here for what went wrong."
        parts += [tag("h3", "Lines that differ most"), tag("p", explained, class_="why")]
        parts.append(tables.lines_table(found.lines))
    return parts


def _speed(report: CompressionReport) -> list[Markup]:
    if not report.speed:
        return []
    explained = "Tokens a second on the machine named below, also of the original in plain float32 and int8."
    return [*_section("Speed", explained), tables.speed_table(report.speed)]


def _layers(report: CompressionReport) -> list[Markup]:
    layers, words = report.layers, wording(report)
    if not layers:
        return []
    sentences = [words.layers]
    if any(layer.snr_db is not None for layer in layers):
        sentences.append(
            "SNR compares the weights with their rounding errors: 10 dB more are errors about a third as large; "
            "int8 usually has about 40, int4 about 20."
        )
    if any(layer.output_error is not None for layer in layers):
        sentences.append(words.error)
    return [
        *_section("Layers", *sentences),
        *_plots(
            (plots.sizes_plot(layers, words.sides), "Bytes of each layer: large layers are where compression pays."),
            (plots.snr_plot(layers), "SNR of the weights: dots far to the left are layers that were rounded hard."),
            (plots.errors_plot(layers), "Output error: dots far to the right are layers that suffer most."),
        ),
        tables.layers_table(layers, words),
    ]


def _inputs(report: CompressionReport) -> list[Markup]:
    known = [(layer.name, layer.inputs) for layer in report.layers if layer.inputs]
    if not known:
        return []
    explained = (
        "The error in a layer's output when its inputs are rounded to int8, in dB: 10 more are ten times the error. "
        "pyengine gives every row of inputs a scale of its own (row). Some runtimes have one scale for all rows, from "
        "a range T that is found on text in advance (by least squared error, mse, or least divergence of histograms, "
        "KL), and clip what exceeds it. Where they are far above row, rows differ in size or a few values stand out, "
        "and such runtimes lose. Where row is high as well, look for outlier channels: --smooth can help all three."
    )
    gaps = [
        (min(inputs.mse.error, inputs.kl.error) / inputs.dynamic_error, name)
        for name, inputs in known
        if inputs.dynamic_error
    ]
    ratio, name = max(gaps, default=(0.0, ""))
    widest = [f"The better of the two loses most in {name}: {decibels(ratio)} dB."] if ratio > 1.5 else []
    return [*_section("Inputs", explained, *widest), tables.inputs_table(report.layers)]


def _outliers(report: CompressionReport) -> list[Markup]:
    plot = plots.outliers_plot(report.layers)
    if plot is None:
        return []
    explained = (
        "Input channels whose largest value is many times that of a usual channel: one scale must fit both, so the "
        "usual ones are rounded more coarsely."
    )
    return [
        *_section("Outlier channels", explained),
        *_plots((plot, "Each dot is a channel of a layer's inputs.")),
        tables.outliers_table(report.layers),
    ]


def _histograms(report: CompressionReport) -> list[Markup]:
    known = [(index, layer) for index, layer in enumerate(report.layers) if layer.histogram]
    if not known:
        return []
    exact = float("inf")
    shown = sorted(known, key=lambda pair: exact if pair[1].snr_db is None else pair[1].snr_db)[:_HISTOGRAMS]
    explained = (
        "How many original weights have which value, on a logarithmic scale; a wide foot beside a narrow bell is "
        "hard to round."
    )
    sentences = [explained]
    if len(shown) < len(known):
        sentences.append(f"Shown are the {len(shown)} layers with the lowest SNR of {len(known)}.")
    drawn = [
        (plots.histogram_plot(index, layer, layer.histogram), "")
        for index, layer in sorted(shown, key=lambda pair: pair[0])
        if layer.histogram
    ]
    return [*_section("Weights", *sentences), *_plots(*drawn, kind="plots small")]


def _pruned(report: CompressionReport) -> list[Markup]:
    if not report.pruned:
        return []
    explained = (
        "Parts that were removed; the errors are those of the layer's output right after the cut, and after the "
        "weights that are left were fitted to make up for it."
    )
    sentence = explained if any(row.error for row in report.pruned) else "Parts of the model that were removed."
    return [*_section("Pruning", sentence), tables.pruned_table(report.pruned)]


def _pareto(report: CompressionReport) -> list[Markup]:
    if not report.pareto:
        return []
    explained = (
        "Each point is a way to choose a type for every layer, with the size of the model and the error that it would "
        "cause; the diamond was taken."
    )
    return [
        *_section("Size against error", explained),
        *_plots((plots.pareto_plot(report.pareto), "The line joins the choices that no other beats in both.")),
        tables.pareto_table(report.pareto),
    ]


def _origin(report: CompressionReport) -> list[Markup]:
    parts = [*_section(wording(report).origin, "The command, and all else that the figures depend on.")]
    parts.append(tag("pre", tag("code", report.command)))
    if report.calibration:
        parts.append(tag("h3", "Calibration"))
        parts.append(tag("p", "Text that was run through the model to see which inputs its layers get.", class_="why"))
        parts.append(tables.calibration_table(report.calibration))
    parts.append(tables.run_table(report))
    return parts
