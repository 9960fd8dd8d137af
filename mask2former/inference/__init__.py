"""From a trained model to results of images and videos."""
