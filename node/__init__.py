"""pacs-ai-node: the DICOM node that stands beside a PACS and answers studies with AI results."""

__version__ = "0.1.0"
