"""The tasks, on the reference session and on the C core."""
