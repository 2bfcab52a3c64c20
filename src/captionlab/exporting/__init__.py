"""Captioners in the formats of other programs: ONNX files with runners, a folder for the Hugging Face Hub."""
