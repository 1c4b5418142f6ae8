"""All cases."""

from .healthy import HEALTHY
from .loops import LOOPED
from .memory import MEMORY
from .training import TRAINING
from .wiring import WIRING

CASES = [*HEALTHY, *MEMORY, *TRAINING, *WIRING, *LOOPED]
