"""Training a trained system further: self-critical training and knowledge distillation."""
