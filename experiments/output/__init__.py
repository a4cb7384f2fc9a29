"""What a trained run gives: samples, figures and pictures."""
