"""The objectives a captioner can be trained by.

To add one, write its file beside `cross_entropy.py` and enter it in `OBJECTIVES`.
"""

from training.objectives.cross_entropy import CrossEntropy
from training.objectives.interface import Objective
from training.objectives.self_critical import SelfCritical

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "self_critical": SelfCritical,
}
