"""export: a trained model's folder in; a folder that other programs read the same way, its card and the proof of that out."""
