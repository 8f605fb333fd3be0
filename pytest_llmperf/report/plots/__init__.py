"""Pictures of runs, by matplotlib: latency, throughput, and many runs beside each other. Pure data in, files out."""

from pytest_llmperf.report.plots.files import (
    LATENCY,
    OVERVIEW,
    THROUGHPUT,
    Drawn,
    draw_overview,
    draw_run,
    requests_in,
    write_overview_plot,
    write_plots,
    write_run_plots,
)

__all__ = [
    "LATENCY",
    "OVERVIEW",
    "THROUGHPUT",
    "Drawn",
    "draw_overview",
    "draw_run",
    "requests_in",
    "write_overview_plot",
    "write_plots",
    "write_run_plots",
]
