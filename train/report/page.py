# SPDX-License-Identifier: Apache-2.0
"""Report of imp-eval: one self-contained HTML file without scripts or external links."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from imp_trt.classes import ClassTable
from imp_trt.data.files import write_atomically
from imp_trt.errors import DependencyMissing
from imp_trt.train.report.confusion import confusion_table
from imp_trt.train.report.example_images import ImageRow, data_url
from imp_trt.train.report.tables import Scored, class_values, tables


def write_report(
    path: str | Path,
    scored: Sequence[Scored],
    *,
    machine: str,
    terms: str | None = None,
    images: Sequence[ImageRow] = (),
    curves: Sequence[str] = (),
) -> Path:
    """Write a report with tables, charts and images of one model, or of a baseline and a model.

    Args:
        path: HTML file to write; replaced if it exists.
        scored: (model,) or (baseline, model), evaluated on the same data.
        machine: machine of the timings.
        terms: license terms of the data; with images, the page states that they also apply to it.
        images: rows of the image section.
        curves: charts of the training, SVG text of :func:`imp_trt.train.report.curves.training_curves`.

    Raises:
        DependencyMissing: Jinja2 or Matplotlib is not installed.
        InvalidInput: the models were not evaluated on the same data.
        OutputError: the file cannot be written.
    """
    require_packages()
    from jinja2 import Environment

    from imp_trt.train.report import charts

    evaluation = scored[-1].evaluation
    sections = _sections(evaluation.classes)
    ious = {s.name: class_values(s.evaluation)["IoU"] for s in scored}
    figures = [charts.bars(ious, title="IoU of each class", sections=sections)]
    if len(scored) == 2:
        baseline, model = (class_values(s.evaluation)["IoU"] for s in scored)
        gains = {name: _difference(baseline[name], model[name]) for name in model}
        title = f"IoU of each class: {scored[1].name} against {scored[0].name}"
        figures.append(charts.gains(gains, title=title, sections=sections))
    figures += _boundary_charts(scored) + _precision_charts(scored)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (files("imp_trt.train.report") / "page.html").read_text(encoding="utf-8")
    )
    text = template.render(
        data=evaluation.data,
        images=evaluation.images,
        scored=scored,
        tables=tables(scored),
        confusion=[
            (s.name, table) for s in scored if (table := confusion_table(s.evaluation.semantic)) is not None
        ],
        charts=figures,
        curves=curves,
        examples=[(row.caption, [(name, data_url(p)) for name, p in row.panels]) for row in images],
        legend=zip(evaluation.classes.names, evaluation.classes.palette, strict=True),
        terms=terms,
        machine=machine,
    )
    # Names of files that are not UTF-8 have lone surrogates.
    return write_atomically(path, text.encode("utf-8", "replace"))


def require_packages() -> None:
    """Raise DependencyMissing unless Jinja2 and Matplotlib are installed; call before an evaluation."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DependencyMissing(
            "report", expected="Jinja2 and Matplotlib", got=error, fix="pip install 'imp-trt[eval]'"
        ) from error


def _sections(classes: ClassTable) -> dict[str, list[str]]:
    kinds = {"things": classes.things, "stuff": classes.stuff}
    return {kind: [classes.names[k] for k in indices] for kind, indices in kinds.items() if indices}


def _difference(baseline: float | None, model: float | None) -> float | None:
    return None if baseline is None or model is None else model - baseline


def _boundary_charts(scored: Sequence[Scored]) -> list[str]:
    from imp_trt.train.report import charts

    known = {s.name: s.evaluation.boundary for s in scored if s.evaluation.boundary}
    if not known:
        return []
    figures = {
        "mIoU": {
            n: {d: x.mean_iou for d, x in zip(b.distances, b.bands, strict=True)} for n, b in known.items()
        },
        "Mean accuracy": {
            n: {d: x.mean_accuracy for d, x in zip(b.distances, b.bands, strict=True)}
            for n, b in known.items()
        },
    }
    objects = {
        n: {100 * d: x.thing_iou for d, x in zip(b.object_distances, b.object_bands, strict=True)}
        for n, b in known.items()
        if b.object_distances
    }
    made = [
        charts.lines(
            series,
            title=f"{name} near class boundaries",
            x_label="pixels within this distance of a boundary",
            y_label=f"{name}, %",
            even=True,
        )
        for name, series in figures.items()
    ]
    if objects:
        made.append(
            charts.lines(
                objects,
                title="mIoU of things near the boundaries of objects",
                x_label="% of the object's size (square root of its area)",
                y_label="mIoU of things, %",
                even=True,
            )
        )
    return made


def _precision_charts(scored: Sequence[Scored]) -> list[str]:
    from imp_trt.train.report import charts

    series = {
        s.name: {float(k): float(v) for k, v in enumerate(s.evaluation.instances.mask.curve50)}
        for s in scored
        if s.evaluation.instances
    }
    if not series:
        return []
    title = "Precision of instance masks against recall (IoU 0.5, mean over classes)"
    return [charts.lines(series, title=title, x_label="recall, %", y_label="precision, %")]
