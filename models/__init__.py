"""The networks of the study and their data; examples for, never a part of, keras_lowbit."""
