from . import fetch as fetch
from .download import fetch_file as fetch_file
from .fetch import WeightStatus as WeightStatus
from .fetch import locate as locate
from .fetch import sha256_of as sha256_of
from .registry import REGISTRY as REGISTRY
