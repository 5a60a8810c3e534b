"""Made-up data sets: masks drawn on the keypoints of real faces, in the boostcamp layout."""
