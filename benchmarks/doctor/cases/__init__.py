"""All cases."""

from .healthy import HEALTHY
from .memory import MEMORY
from .training import TRAINING
from .wiring import WIRING

CASES = [*HEALTHY, *MEMORY, *TRAINING, *WIRING]
