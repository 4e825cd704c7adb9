"""From a quantized program to a TFLite flatbuffer, its integer reference and the proof that both agree."""
