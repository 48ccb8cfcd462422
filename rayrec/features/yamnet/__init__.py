"""YAMNet: what a trained network hears in a sound (docs/papers.md). Its weights come from a file of TensorFlow Lite or Keras."""
