"""A food-delivery platform that writes down everything it does, so that nothing can be lost unnoticed."""
