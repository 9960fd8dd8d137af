"""From a trained model to results for images and videos."""
