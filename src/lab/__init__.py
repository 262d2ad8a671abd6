"""Models, data and training of lab, a research template on Hydra and PyTorch Lightning."""
