"""The errors that maskprep and masktrain raise for people to read."""

from maskprep.base.errors import RowError as RowError
from maskprep.base.errors import UsageError as UsageError
from maskprep.base.errors import UserError as UserError
