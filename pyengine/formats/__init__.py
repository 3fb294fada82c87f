"""File formats that more than one room reads: strict JSON and the safetensors header."""
