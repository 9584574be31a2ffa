"""Peak memory, each setting in a process of its own."""

import pytest
import torch

from altdiffusion.benchmark import runs
from altdiffusion.benchmark.cases import memory
from altdiffusion.benchmark.models import SMALL

CPU = torch.device("cpu")
pytestmark = pytest.mark.long


def test_peak_memory_of_each_setting_is_measured_in_a_process_of_its_own():
    (found,) = memory.measure(SMALL, CPU)
    values = {each.name: each.values for each in found.contenders}
    measured = {name for name, some in values.items() if some}
    assert measured == {"altdiffusion, low_memory", "altdiffusion, plain", "altdiffusion, optimize()", "stock"}
    assert all(0.1 < values[name][0] < 3 for name in measured)  # GB: Python with torch and small models
    assert any("GB" in cell for row in runs.rows(runs.as_document(found)) for cell in row)
