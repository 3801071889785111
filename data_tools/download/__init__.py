"""Published data sets, fetched from where their authors put them, checked, and unpacked into a folder that trains."""

from data_tools.download.data_set import DataSet, known_sets
from data_tools.download.fetch import Fetched, fetch_data_set

__all__ = ["DataSet", "Fetched", "fetch_data_set", "known_sets"]
