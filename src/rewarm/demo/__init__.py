"""demo: pinned packages in; the embedded default out, a base model, Vietnamese and English text, and the recipe that runs on them."""
