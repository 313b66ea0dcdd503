"""DICOM in and out: source images to volumes, findings to result instances."""
