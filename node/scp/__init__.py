"""The DICOM door: storage and verification as a provider."""
