"""All cases."""

from .healthy import HEALTHY
from .sick import SICK

CASES = HEALTHY + SICK
