"""How well a model does: measures, reference labels and the table of both. No DICOM; see `workers.evaluate`."""
