"""What training is made of: model, losses, augmentation, the loop."""
