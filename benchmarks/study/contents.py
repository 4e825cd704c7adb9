"""What stands on the page of the study, and in which order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.study import beyond, figures, tables
from benchmarks.study.measured import Measured

INTRODUCTION = """# The study

*An Empirical Study of Low Precision Quantization for TinyML* (Zhuo et al., 2022), measured again
with keras_lowbit. This page is written by `make study-report` from the rows that
`python -m benchmarks.study run` measures; a dash is a cell without a row.

"W/A" are the bits of weights and activations, 8 to 2 without 7, which the paper does not print; the network input has
those of the activations, tensors that feed only adds and pools have 8. Variables go by the paper's names: qparam is LSQ, weights
AdaQuant, bits Bit-Split, round AdaRound. All is *simulated*, as in the paper. A seed draws the 1,024
calibration samples and orders them. DS-CNN has too few training clips: seed *s* calibrates on fold *s*
of the test clips, unlabelled, and is evaluated on the other four. MobileNetV1's samples are of 580
photographs and their mirror images, so that a sample held out for the last step mostly has its twin among the others. The float networks are not the
paper's, so that drops from float are to be compared, not accuracies.
"""

STATISTICS = "Accuracy in percent: mean ± sample standard deviation over seeds (their number)."
AGAINST = "Drop from float in points, in brackets the paper's."


class Table(NamedTuple):
    """A section with tables."""

    title: str
    text: str
    grid: str
    render: Callable[[Measured], str]
    counts_cells: bool = True


class Figure(NamedTuple):
    """A figure of the paper and its reproduction."""

    title: str
    finding: str
    grid: str
    draw: Callable[[Measured, Path], None]

    @property
    def file_name(self) -> str:
        return self.title.lower().replace(" ", "_") + ".svg"


FIGURES = (
    Figure(
        "Figure 4",
        "After initialisation alone, MSE ranges for both weights and activations are best; "
        "cross-layer equalization helps at 3/3 and hurts at 4/4 and 5/5.",
        "figure_four", figures.initialization,
    ),
    Figure(
        "Figure 5",
        "With only the weights quantized, qparam is clearly worst at low bits; round and bits are "
        "usually above weights.",
        "figure_five", figures.weights_only,
    ),
    Figure(
        "Figure 6",
        "Layerwise and blockwise reconstruction are alike at 4/4 and above; blocks are better for "
        "Res8 at 3/3 and 2/2 and for DS-CNN at 3/3.",
        "figure_six", figures.granularity,
    ),
    Figure(
        "Figure 7",
        "Bias tuning helps almost always: Res8 with qparam gains over 10 points at 3/3 and 2/2.",
        "table_two", figures.bias_tuning,
    ),
    Figure(
        "Figure 8",
        "4/4 is the sweet spot: half the memory and three quarters of the computation saved for a "
        "small drop.",
        "table_two", figures.cost,
    ),
)  # fmt: skip


def _accuracies_and_drops(measured: Measured, grid: str) -> str:
    tasks = measured.tasks(grid)
    return (
        f"{tables.accuracies(measured, grid, tasks)}\n\n{AGAINST}\n\n"
        f"{tables.drops(measured, grid, tasks)}"
    )


PAPER_TABLES = (
    Table(
        "Table 1", "The float networks: cost by `keras_lowbit.cost`, accuracy on our test samples.",
        "table_two", tables.table_one, counts_cells=False,
    ),
    Table(
        "Table 2", STATISTICS, "table_two",
        functools.partial(_accuracies_and_drops, grid="table_two"),
    ),
    Table(
        "Best of four",
        "Drop from float of the best variable, chosen on the test samples as in the paper. *edge-8*: 8 "
        "bits for the network input and the first and last layer. *Output ranges* are not the paper's: "
        "see below.",
        "table_two", tables.best_of_four,
    ),
)  # fmt: skip
BEYOND_TABLES = (
    Table(
        "Table 2 with edge-8",
        "As in Table 2, but with 8 bits for the network input, the first and the last layer. "
        f"{STATISTICS}",
        "edge_eight", functools.partial(_accuracies_and_drops, grid="edge_eight"),
    ),
    Table(
        "Output ranges",
        "As in Table 2, but activation ranges begin with the least error of the network's output "
        f"(`activation_range=\"output\"`). {STATISTICS} Then the drop from float, in brackets that of "
        "the same seeds in Table 2.",
        "output_ranges", functools.partial(beyond.settings, grid="output_ranges", beside="table_two"),
    ),
    Table(
        "Input at 8 bits",
        f"As in Table 2, but the network input has 8 bits. {STATISTICS} Then the drop from float, in "
        "brackets that of the same seeds in Table 2.",
        "wide_input", functools.partial(beyond.settings, grid="wide_input", beside="table_two"),
    ),
    Table(
        "8-bit activations",
        "As in Table 2, but all activations have 8 bits: fewer save nothing on stock int8 kernels. "
        f"{STATISTICS} Then the drop from float.",
        "device", functools.partial(beyond.settings, grid="device"),
    ),
    Table(
        "Blocks with edge-8",
        "DS-CNN block by block with 8 bits at both ends, as its uniform setting loses the input first. "
        f"{STATISTICS} Then the drop from float, in brackets that of the same seeds layer by layer.",
        "edge_eight_blocks",
        functools.partial(beyond.settings, grid="edge_eight_blocks", beside="edge_eight"),
    ),
    Table(
        "Equalization of the weights alone",
        f"As in Figure 4 with MSE ranges, but activations as good as float. {STATISTICS} Then the drop from "
        "float.",
        "equalized_weights", functools.partial(beyond.settings, grid="equalized_weights"),
    ),
    Table(
        "A second Res8",
        f"Trained by us by the official recipe, shortened to 60 epochs (`models/train_res8.py`). {STATISTICS}",
        "second_res8", functools.partial(_accuracies_and_drops, grid="second_res8"),
    ),
    Table(
        "A second Res8 with edge-8", f"The same with 8 bits at both ends. {STATISTICS}",
        "second_res8_edge_eight",
        functools.partial(_accuracies_and_drops, grid="second_res8_edge_eight"),
    ),
    Table(
        "DS-CNN calibrated on training clips",
        "On the 275 training clips at hand, augmented, and silence; evaluated on all test clips. "
        f"{STATISTICS}",
        "ds_cnn_calib", functools.partial(_accuracies_and_drops, grid="ds_cnn_calib"),
    ),
)  # fmt: skip
