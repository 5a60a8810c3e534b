from .writer import SampleSummary as SampleSummary
from .writer import write_sample as write_sample
