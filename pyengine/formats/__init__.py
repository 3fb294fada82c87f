"""What more than one room reads: regular files only, strict JSON and the safetensors header."""
