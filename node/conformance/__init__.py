"""The conformance statement (PS3.2): what the node does over DICOM, told from the code and from its settings."""

from node.conformance.page import to_markdown
from node.conformance.statement import Statement, describe

__all__ = ["Statement", "describe", "to_markdown"]
