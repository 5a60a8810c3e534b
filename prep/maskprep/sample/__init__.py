"""Made-up data sets: masks drawn by code on the landmarks of real faces, in the boostcamp layout."""
